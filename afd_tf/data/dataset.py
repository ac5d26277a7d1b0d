"""A data set as batches of raw pixels, and `load`, which opens one."""

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from afd_tf.base.errors import UserError
from afd_tf.data.array_dataset import check_split
from afd_tf.data.augment import check_padding
from afd_tf.data.cache import DEFAULT_GIGABYTES, Cache
from afd_tf.data.choices import LEAST_AREA, resolve_augmentation
from afd_tf.data.dataset_info import DatasetInfo
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.readers import Reader
from afd_tf.data.records import Record
from afd_tf.data.sharding import Share
from afd_tf.data.sources import (
    Source,
    encoded_source,
    is_files,
    open_source,
    streaming,
)
from afd_tf.data.split_readers import (
    decode_splits,
    hold_out_validation,
    stream_splits,
)

# The number of images that give mean and variance of a streamed data set.
_STATISTICS_EXAMPLES = 20_000


class Dataset:
    """Batches of labelled images.

    Attributes:
      record: which images there are and on which side each is (see `records`); None
        for data sets that have no files of the user's.
      skipped: the number of files that cannot be used and were left out.
      leakage: the numbers of held-out images that are "copies" or "look_alikes" of
        training images; None where they are not counted.

    Args:
      info: the description of the data set.
      splits: a reader of the images of each split.
      source: gives the attributes.
    """

    def __init__(
        self,
        info: DatasetInfo,
        splits: Mapping[str, Reader],
        source: Source | None = None,
    ):
        self.info = info
        self.record: Record | None = getattr(source, "record", None)
        self.skipped: int = getattr(source, "skipped", 0)
        self.leakage: dict[str, int] | None = getattr(source, "leakage", None)
        self._splits = splits

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of batches in an epoch; the last one may be smaller."""
        return -(-self.info.examples["train"] // batch_size)

    def class_counts(self, split: str = "train") -> list[int]:
        """Counts the images of each class in a split; a stream is read for that."""
        labels = self._splits[split].labels()
        return np.bincount(labels, minlength=self.info.num_classes).tolist()

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
        min_images_per_replica: int = 1,
    ) -> tf.data.Dataset:
        """Returns the rest of a run: the batches from `first_step` to the last epoch.

        Each epoch has every training image once (or, with balanced sampling, as many
        of each class: see `sampling.balanced_repeats`), in an order made from (seed,
        epoch), augmented and mixed from (seed, step): a run that is continued at
        `first_step` sees the images it would have seen.

        Args:
          batch_size: images per step, over all replicas.
          seed: determines order and augmentation.
          epochs: of the whole run.
          first_step: the global step to begin with.
          replicas: R > 1 gives every batch of B images as R elements in a row,
            of which number r has the images r * B // R to (r + 1) * B // R.
          own: the numbers of the elements that this process takes; None is all.
          min_images_per_replica: images that each of several replicas needs.

        Returns:
          elements {"image": uint8 [B, h, w, c], "label": int32 [B]}; with mixup or
          CutMix also "mixed_label", int32 [B], and "mixed_weight", float32 [B] in 0..1
          (see `mix.mix_batch`).

        Raises:
          UserError: the last batch of an epoch has too few images for the replicas.
        """
        last_batch = self.info.examples["train"] % batch_size or batch_size
        if replicas > 1 and last_batch < replicas * min_images_per_replica:
            raise UserError(
                f"the last batch of an epoch has {last_batch} images for {replicas} "
                f"replicas, each of which needs at least {min_images_per_replica}: "
                f"choose another --batch_size than {batch_size}."
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
        """Returns batches with every image of a split once, in order, not augmented.

        Args:
          split: "train", "validation" or "test".
          batch_size: images per batch, over all replicas.
          replicas: see `train_batches`.
          own: see `train_batches`.

        Returns:
          elements {"image": uint8 [B, h, w, c], "label": int32 [B], "weight":
          float32 [B]}, all batches of the same size; the last one is filled up with
          images of weight 0.

        Raises:
          UserError: there is no such split.
        """
        check_split(split, self._splits, self.info.name)
        batches = self._splits[split].evaluation_batches(
            batch_size=batch_size, share=_share(replicas, own)
        )
        return batches.prefetch(tf.data.AUTOTUNE)

    def numpy_batches(
        self, split: str, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields every image of a split once, in order, not augmented.

        Args:
          split: see `evaluation_batches`.
          batch_size: images per batch; the last one may be smaller.

        Yields:
          images, uint8 [B, h, w, c], and their labels, int32 [B].

        Raises:
          UserError: there is no such split.
        """
        batches = self.evaluation_batches(split, batch_size=batch_size)
        for batch in batches.as_numpy_iterator():
            # Without the images that fill up the last batch.
            real = batch["weight"] > 0
            yield batch["image"][real], batch["label"][real]


def _share(replicas: int, own: range | None) -> Share:
    return Share(replicas, range(replicas) if own is None else own)


def load(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    augment: str = "auto",
    padding: str = "reflect",
    least_area: float = LEAST_AREA,
    randaugment_layers: int = 2,
    randaugment_magnitude: int = 9,
    random_erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    sampling: str = "shuffled",
    validation_examples: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
    cache_dir: str | None = None,
    cache_gigabytes: float = DEFAULT_GIGABYTES,
    memory_gibibytes: float = 2.0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    skip_bad_images: bool = False,
    expected: DatasetInfo | None = None,
    recorded: Record | None = None,
    changed_data: str = "refuse",
) -> Dataset:
    """Opens a data set; a small one is decoded once and kept in `cache_dir`.

    Args:
      name: a tfds name, "folder:PATH", "csv:PATH" or "digits".
      data_dir: the directory of prepared tfds data sets; None is the default of tfds.
      download: whether a tfds data set that is not prepared may be downloaded.
      image_size: height and width in pixels to which the central square of each image
        is resized; None keeps the size, which all images must share.
      augment: "auto" or one of `choices.AUGMENTATIONS`.
      padding: one of `choices.PADDINGS`, for "cifar".
      least_area: see `ImageRecipe`, as for the next ones.
      randaugment_layers: operations of RandAugment on an image.
      randaugment_magnitude: strength of RandAugment's operations.
      random_erasing: probability of erasing a box.
      mixup: alpha of mixup.
      cutmix: alpha of CutMix.
      sampling: "shuffled", or "balanced" classes.
      validation_examples: number of training images to hold out, each class in
        proportion, always the same ones.
      train_split: training split of a tfds data set, in the notation of tfds.
      test_split: test split of a tfds data set.
      cache_dir: the directory for decoded images; None is the user's cache.
      cache_gigabytes: see `Cache`.
      memory_gibibytes: encoded images of no more bytes are read once and kept in
        memory; more are read whenever they are needed.
      test_fraction: see `FolderSource`; for a folder or table without test images.
      validation_fraction: the part of the training images to hold out for validation;
        of a folder or table, it is chosen by content (see `splits`).
      skip_bad_images: for a folder or table: goes on without files that cannot be used.
      expected: the info of the run or artifact that this data set is for; its mean,
        variance and augmentation are taken over.
      recorded: the `record` of the run that this data set is for.
      changed_data: one of `records.CHANGED_DATA`: what to do if it is another.

    Raises:
      UserError: the data set is unknown, cannot be prepared, is malformed, or does
        not fit to the expected one.
    """
    if validation_examples and validation_fraction:
        raise UserError(
            "--validation_examples and --validation_fraction both hold out validation "
            "images: give one of them."
        )
    cache = Cache(cache_dir, cache_gigabytes)
    of_files = {
        "test_fraction": test_fraction,
        "validation_fraction": validation_fraction,
        "skip_bad_images": skip_bad_images,
        "white_level": expected.white_level if expected else None,
        "recorded": recorded,
        "changed_data": changed_data,
    }
    source = open_source(
        name,
        data_dir=data_dir,
        download=download,
        image_size=image_size,
        train_split=train_split,
        test_split=test_split,
        cache=cache,
        **of_files,
    )
    if validation_fraction and not is_files(name):
        validation_examples = round(validation_fraction * source.counts["train"])
    if expected is not None:
        expected.check_compatible(source.name, source.image_shape, source.class_names)
        augment = expected.augment
    augment = resolve_augmentation(
        augment, name=source.name, image_shape=source.image_shape
    )
    check_padding(padding, augment=augment, image_shape=source.image_shape)

    recipe = ImageRecipe(
        augment=augment,
        padding=padding,
        least_area=least_area,
        randaugment_layers=randaugment_layers,
        randaugment_magnitude=randaugment_magnitude,
        random_erasing=random_erasing,
        mixup=mixup,
        cutmix=cutmix,
        sampling=sampling,
    )
    how = streaming(source, augment=augment, image_size=image_size)
    encoded = encoded_source(source, cache) if how.streamed else None
    if encoded is None:
        splits = decode_splits(source, cache, recipe)
    else:
        splits = stream_splits(
            encoded,
            recipe,
            memory_bytes=memory_gibibytes * (1 << 30),
            evaluation_fraction=how.evaluation_fraction,
        )
    if validation_examples:
        splits |= hold_out_validation(source, splits["train"], validation_examples)
    if expected is not None:
        mean, variance = expected.mean, expected.variance
    else:
        key = {
            "statistics": source.fingerprint("train"),
            "streamed": [augment, how.large] if encoded else None,
            "validation_examples": validation_examples,
        }
        mean, variance = cache.value(
            key, lambda: splits["train"].mean_and_variance(_STATISTICS_EXAMPLES)
        )

    info = DatasetInfo(
        name=source.name,
        image_shape=source.image_shape,
        class_names=source.class_names,
        examples={
            split: len(splits[split]) if split in splits else 0
            for split in ("train", "validation", "test")
        },
        mean=tuple(mean),
        variance=tuple(variance),
        augment=augment,
        white_level=getattr(source, "white_level", None),
    )
    if expected is None and not any(variance):
        raise UserError(
            f"all pixels of the training images of {name} are the same "
            f"({', '.join(f'{value:g}' for value in mean)}): look at the images; "
            f"perhaps their values are not those of an image."
        )
    logging.info(
        "%s: images of shape %s, %d classes, %s, augmentation %s",
        info.name,
        info.image_shape,
        info.num_classes,
        info.examples,
        info.augment,
    )
    return Dataset(info, splits, source)
