"""The only way to get pictures: `load()`, or `from_flags()` in a main.

Pictures are raw uint8 0..255 from here to the model, which normalises them with
the mean and the variance in `DatasetInfo`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags, logging

from afd_tf.data import augment as augment_lib
from afd_tf.data import readers, sources
from afd_tf.data.cache import Cache
from afd_tf.errors import UserError

_DATASET = flags.DEFINE_string(
    "dataset",
    "digits",
    "A tensorflow-datasets name (cifar100, mnist, cifar10_1/v4), folder:PATH "
    "(PATH/train/<class>/*.png, PATH/test/<class>/*.png) or digits (small, needs no "
    "network).",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared tfds data sets lie; default: tfds' own."
)
_DOWNLOAD = flags.DEFINE_boolean(
    "download", True, "Fetch a tfds data set that is not prepared."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Crop and resize pictures to N x N.", lower_bound=1
)
_AUGMENT = flags.DEFINE_enum(
    "augment",
    "auto",
    ["auto", *augment_lib.AUGMENTATIONS],
    "auto: none for grey pictures and digits, cifar (pad 4, crop, mirror) up to 64 "
    "pixels, imagenet (random resized crop, mirror) above.",
)
_PADDING = flags.DEFINE_enum(
    "padding", "reflect", augment_lib.PADDINGS, "How --augment=cifar pads."
)
_VALIDATION_EXAMPLES = flags.DEFINE_integer(
    "validation_examples",
    0,
    "Training pictures to hold out for validation, each class in proportion, the "
    "same for every --seed.",
    lower_bound=0,
)
_TRAIN_SPLIT = flags.DEFINE_string(
    "train_split", None, "Training split of a tfds set, e.g. train[:80%]."
)
_TEST_SPLIT = flags.DEFINE_string(
    "test_split", None, "Test split of a tfds set, e.g. train[80%:]."
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Where decoded pictures are kept; default: $XDG_CACHE_HOME/afd_tf or "
    "~/.cache/afd_tf.",
)

# A decoded split up to this size is held in memory; above, the set is streamed.
_IN_MEMORY_BYTES = 2 << 30

# Streamed sets: the mean and the variance are those of this many pictures.
_STATISTICS_EXAMPLES = 20_000


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What a model has to know about a data set.

    Attributes:
      name: as given to --dataset; a folder's path is absolute.
      image_shape: height, width, channels.
      class_names: one name per label.
      examples: pictures per split: "train", "validation", "test".
      mean: per channel, of the raw training pixels 0..255.
      variance: per channel.
      augment: "none", "cifar" or "imagenet".
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    augment: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dictionary; `from_json` gives the same info back."""
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "examples": dict(self.examples),
            "mean": list(self.mean),
            "variance": list(self.variance),
            "augment": self.augment,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Returns the info that `to_json` wrote."""
        return cls(
            name=values["name"],
            image_shape=tuple(values["image_shape"]),
            class_names=tuple(values["class_names"]),
            examples=dict(values["examples"]),
            mean=tuple(values["mean"]),
            variance=tuple(values["variance"]),
            augment=values["augment"],
        )


class Dataset:
    """Batches of labelled pictures.

    Args:
      info: what the data set is.
      splits: reads the pictures, per split.
    """

    def __init__(self, info: DatasetInfo, splits: Mapping[str, readers.Reader]):
        self.info = info
        self._splits = splits

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the batches of an epoch; the last may be smaller than the others."""
        return -(-self.info.examples["train"] // batch_size)

    @tf.autograph.experimental.do_not_convert  # nothing to convert: starts faster
    def train_batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        first_step: int = 0,
        replicas: int = 1,
        own: range | None = None,
        least: int = 1,
    ) -> tf.data.Dataset:
        """Returns the rest of a run: the batches from `first_step` to the last epoch.

        Each epoch has every training picture once, in an order made from (seed,
        epoch), augmented from (seed, step): a run that is continued at `first_step`
        sees the pictures it would have seen.

        Args:
          batch_size: pictures per step, over all replicas.
          seed: makes order and augmentation.
          epochs: of the whole run.
          first_step: the global step to begin with.
          replicas: R > 1 gives every batch of B pictures as R elements in a row,
            slice r being the pictures r * B // R to (r + 1) * B // R.
          own: the slices of this process, where others take the rest.
          least: pictures that each of several replicas needs.

        Returns:
          elements {"image": uint8 [B, h, w, c], "label": int32 [B]}.

        Raises:
          UserError: a batch cannot be dealt out to the replicas.
        """
        rest = self.info.examples["train"] % batch_size or batch_size
        if replicas > 1 and rest < replicas * least:
            parts = f" in {least} parts each" if least > 1 else ""
            raise UserError(
                f"the last batch of an epoch has {rest} pictures for {replicas} "
                f"replicas{parts}: choose another --batch_size than {batch_size}."
            )
        batches = self._splits["train"].train_batches(
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            first_step=first_step,
            share=_share(replicas, own),
        )
        return batches.prefetch(tf.data.AUTOTUNE)

    @tf.autograph.experimental.do_not_convert
    def evaluation_batches(
        self,
        split: str,
        *,
        batch_size: int,
        replicas: int = 1,
        own: range | None = None,
    ) -> tf.data.Dataset:
        """Returns every picture of a split once, in a fixed order, not augmented.

        Args:
          split: "train", "validation" or "test".
          batch_size: pictures per batch, over all replicas.
          replicas: as in `train_batches`.
          own: likewise.

        Returns:
          elements {"image": uint8 [B, h, w, c], "label": int32 [B], "weight":
          float32 [B]}, all of the same B; the last batch is filled up with
          pictures of weight 0.

        Raises:
          UserError: there is no such split, or it is empty.
        """
        if split not in self._splits:
            raise UserError(
                f"{self.info.name} has no split {split!r}; it has "
                f"{', '.join(self._splits)}."
            )
        batches = self._splits[split].evaluation_batches(
            batch_size=batch_size, share=_share(replicas, own)
        )
        return batches.prefetch(tf.data.AUTOTUNE)


def _share(replicas: int, own: range | None) -> readers.Share:
    return readers.Share(replicas, range(replicas) if own is None else own)


def load(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    augment: str = "auto",
    padding: str = "reflect",
    validation_examples: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
    cache_dir: str | None = None,
    expected: DatasetInfo | None = None,
) -> Dataset:
    """Opens a data set; decodes it (once, then kept in `cache_dir`) if it is small.

    Args:
      name: a tfds name, "folder:PATH" or "digits".
      data_dir: where prepared tfds data sets lie; None is the default of tfds.
      download: whether a tfds data set that is not prepared may be fetched.
      image_size: cuts out the central square and resizes it to this size.
      augment: "auto" or one of `augment.AUGMENTATIONS`.
      padding: "reflect" or "zero", for "cifar".
      validation_examples: training pictures to hold out, stratified, always the
        same ones.
      train_split: training split of a tfds set, in its notation.
      test_split: test split of a tfds set.
      cache_dir: where to keep decoded pictures; None is the user's cache.
      expected: the info of the run or artifact that goes on with this data set;
        its mean, variance and augmentation are taken over.

    Raises:
      UserError: the data set is unknown, cannot be had, is malformed, or is not
        the expected one.
    """
    cache = Cache(cache_dir)
    source = sources.open_source(
        name,
        data_dir=data_dir,
        download=download,
        image_size=image_size,
        train_split=train_split,
        test_split=test_split,
        cache=cache,
    )
    if expected is not None:
        _check_expected(source, expected)
        augment = expected.augment
    augment = augment_lib.resolve(
        augment, name=source.name, image_shape=source.image_shape
    )
    augment_lib.check_padding(padding, augment=augment, image_shape=source.image_shape)

    counts = dict(source.counts)
    picture_bytes = int(np.prod(source.image_shape))
    in_memory = max(counts.values()) * picture_bytes <= _IN_MEMORY_BYTES
    whole: dict[str, readers.Reader] = {}
    for split in counts:
        if in_memory:
            key = {"pictures": source.fingerprint(split)}
            images, labels = cache.pictures(key, lambda split=split: source.read(split))
            whole[split] = readers.MemoryReader(
                images, labels, augment=augment, padding=padding
            )
        else:
            whole[split] = readers.StreamReader(
                source, split, augment=augment, padding=padding
            )
    if validation_examples:
        # A stream must be read to its end for the labels; once is enough.
        labels = cache.value(
            {"labels": source.fingerprint("train")},
            lambda: whole["train"].labels().tolist(),
        )
        kept, held_out = _hold_out(
            source, np.array(labels, np.int32), validation_examples
        )
        whole["validation"] = whole["train"].select(held_out)
        whole["train"] = whole["train"].select(kept)
        counts["validation"], counts["train"] = len(held_out), len(kept)

    if expected is not None:
        mean, variance = expected.mean, expected.variance
    else:
        mean, variance = cache.value(
            {
                "statistics": source.fingerprint("train"),
                "streamed": None if in_memory else augment,
                "validation_examples": validation_examples,
            },
            lambda: whole["train"].mean_and_variance(_STATISTICS_EXAMPLES),
        )
    info = DatasetInfo(
        name=source.name,
        image_shape=source.image_shape,
        class_names=source.class_names,
        examples={
            split: counts.get(split, 0) for split in ("train", "validation", "test")
        },
        mean=tuple(mean),
        variance=tuple(variance),
        augment=augment,
    )
    logging.info(
        "%s: pictures of shape %s, %d classes, %s, augmentation %s",
        *(info.name, info.image_shape, info.num_classes, info.examples, info.augment),
    )
    return Dataset(info, whole)


def _check_expected(source: sources.Source, expected: DatasetInfo) -> None:
    if source.image_shape != tuple(expected.image_shape):
        raise UserError(
            f"{source.name} has pictures of shape {source.image_shape}, but "
            f"{tuple(expected.image_shape)} is expected (from {expected.name})."
        )
    if source.class_names == tuple(expected.class_names):
        return
    if len(source.class_names) != expected.num_classes:
        difference = f"{len(source.class_names)} classes, not {expected.num_classes}"
    else:
        pairs = zip(source.class_names, expected.class_names, strict=True)
        label, (name, other) = next(
            (label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        difference = f"class {label} called {name!r}, not {other!r}"
    raise UserError(
        f"{source.name} is not the data set expected ({expected.name}): it has "
        f"{difference}."
    )


def _hold_out(
    source: sources.Source, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions to train on and those to hold out for validation."""
    if "validation" in source.counts:
        raise UserError(
            f"{source.name} has a validation split of its own "
            f"({source.counts['validation']} pictures): leave --validation_examples "
            f"away."
        )
    held_out = sources.stratified_choice(labels, min(count, len(labels)), seed=0)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if set(labels[kept]) != set(labels):
        raise UserError(
            f"--validation_examples={count} is too many: {source.name} has "
            f"{len(labels)} training pictures in {len(source.class_names)} classes, "
            f"and each class must keep some."
        )
    return kept, held_out


def from_flags(*, expected: DatasetInfo | None = None) -> Dataset:
    """Opens the data set that the flags of this module describe; see `load`."""
    return load(
        _DATASET.value,
        data_dir=_DATA_DIR.value,
        download=_DOWNLOAD.value,
        image_size=_IMAGE_SIZE.value,
        augment=_AUGMENT.value,
        padding=_PADDING.value,
        validation_examples=_VALIDATION_EXAMPLES.value,
        train_split=_TRAIN_SPLIT.value,
        test_split=_TEST_SPLIT.value,
        cache_dir=_CACHE_DIR.value,
        expected=expected,
    )
