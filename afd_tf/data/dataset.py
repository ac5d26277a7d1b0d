"""A data set as batches of raw pixels, and `load`, which opens one."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from afd_tf.base.errors import UserError
from afd_tf.data.augment import check_padding, resolve_augmentation
from afd_tf.data.cache import Cache
from afd_tf.data.dataset_info import DatasetInfo
from afd_tf.data.readers import MemoryReader, Reader
from afd_tf.data.sampling import stratified_choice
from afd_tf.data.sharding import Share
from afd_tf.data.sources import Source, open_source
from afd_tf.data.stream_reader import StreamReader

# Splits decoded to no more bytes than this are held in memory; larger ones are
# streamed.
MAX_IN_MEMORY_BYTES = 2 << 30

# The number of images that give mean and variance of a streamed data set.
_STATISTICS_EXAMPLES = 20_000


class Dataset:
    """Batches of labelled images.

    Args:
      info: the description of the data set.
      splits: a reader of the images of each split.
    """

    def __init__(self, info: DatasetInfo, splits: Mapping[str, Reader]):
        self.info = info
        self._splits = splits

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of batches in an epoch; the last one may be smaller."""
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
        min_images_per_replica: int = 1,
    ) -> tf.data.Dataset:
        """Returns the rest of a run: the batches from `first_step` to the last epoch.

        Each epoch has every training image once, in an order made from (seed,
        epoch) and augmented from (seed, step): a run that is continued at `first_step`
        sees the images it would have seen.

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
          elements {"image": uint8 [B, h, w, c], "label": int32 [B]}.

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
        if split not in self._splits:
            raise UserError(
                f"{self.info.name} has no split {split!r}; it has "
                f"{', '.join(self._splits)}."
            )
        batches = self._splits[split].evaluation_batches(
            batch_size=batch_size, share=_share(replicas, own)
        )
        return batches.prefetch(tf.data.AUTOTUNE)


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
    validation_examples: int = 0,
    train_split: str | None = None,
    test_split: str | None = None,
    cache_dir: str | None = None,
    expected: DatasetInfo | None = None,
) -> Dataset:
    """Opens a data set; a small one is decoded once and kept in `cache_dir`.

    Args:
      name: a tfds name, "folder:PATH" or "digits".
      data_dir: the directory of prepared tfds data sets; None is the default of tfds.
      download: whether a tfds data set that is not prepared may be downloaded.
      image_size: height and width in pixels to which the central square of each image
        is resized; None keeps the size, which all images must share.
      augment: "auto" or one of `augment.AUGMENTATIONS`.
      padding: one of `augment.PADDINGS`, for "cifar".
      validation_examples: number of training images to hold out, each class in
        proportion, always the same ones.
      train_split: training split of a tfds data set, in the notation of tfds.
      test_split: test split of a tfds data set.
      cache_dir: the directory for decoded images; None is the user's cache.
      expected: the info of the run or artifact that this data set is for; its mean,
        variance and augmentation are taken over.

    Raises:
      UserError: the data set is unknown, cannot be prepared, is malformed, or does
        not fit to the expected one.
    """
    cache = Cache(cache_dir)
    source = open_source(
        name,
        data_dir=data_dir,
        download=download,
        image_size=image_size,
        train_split=train_split,
        test_split=test_split,
        cache=cache,
    )
    if expected is not None:
        _check_same_shape_and_classes(source, expected)
        augment = expected.augment
    augment = resolve_augmentation(
        augment, name=source.name, image_shape=source.image_shape
    )
    check_padding(padding, augment=augment, image_shape=source.image_shape)

    streamed = _largest_split_bytes(source) > MAX_IN_MEMORY_BYTES
    if streamed:
        splits = _stream_splits(source, augment=augment, padding=padding)
    else:
        splits = _decode_splits(source, cache, augment=augment, padding=padding)
    if validation_examples:
        splits |= _hold_out_validation(
            source, splits["train"], validation_examples, cache
        )
    if expected is not None:
        mean, variance = expected.mean, expected.variance
    else:
        key = {
            "statistics": source.fingerprint("train"),
            "streamed": augment if streamed else None,
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
    )
    logging.info(
        "%s: images of shape %s, %d classes, %s, augmentation %s",
        info.name,
        info.image_shape,
        info.num_classes,
        info.examples,
        info.augment,
    )
    return Dataset(info, splits)


def _check_same_shape_and_classes(source: Source, expected: DatasetInfo) -> None:
    """Refuses a data set whose images or labels a model of another cannot take."""
    if source.image_shape != tuple(expected.image_shape):
        raise UserError(
            f"{source.name} has images of shape {source.image_shape}, but "
            f"{tuple(expected.image_shape)} is expected (from {expected.name}): pass "
            f"the --dataset and --image_size of the training."
        )
    if source.class_names == tuple(expected.class_names):
        return
    if len(source.class_names) != expected.num_classes:
        difference = f"{len(source.class_names)} classes, not {expected.num_classes}"
    else:
        pairs = zip(source.class_names, expected.class_names, strict=True)
        label, (given, wanted) = next(
            (label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        difference = f"class {label} called {given!r}, not {wanted!r}"
    raise UserError(
        f"{source.name} is not the data set expected ({expected.name}): it has "
        f"{difference}. Pass a --dataset with the classes of the training."
    )


def _largest_split_bytes(source: Source) -> int:
    return max(source.counts.values()) * int(np.prod(source.image_shape))


def _stream_splits(source: Source, *, augment: str, padding: str) -> dict[str, Reader]:
    """Returns readers that decode images whenever they are needed."""
    return {
        split: StreamReader(source, split, augment=augment, padding=padding)
        for split in source.counts
    }


def _decode_splits(
    source: Source, cache: Cache, *, augment: str, padding: str
) -> dict[str, Reader]:
    """Returns readers of images that are decoded now, or were in an earlier run."""
    splits = {}
    for split in source.counts:
        images, labels = cache.images(
            {"images": source.fingerprint(split)},
            lambda split=split: source.read(split),
        )
        splits[split] = MemoryReader(images, labels, augment=augment, padding=padding)
    return splits


def _hold_out_validation(
    source: Source, train: Reader, count: int, cache: Cache
) -> dict[str, Reader]:
    """Divides the training images; returns readers for "train" and "validation"."""
    if "validation" in source.counts:
        raise UserError(
            f"{source.name} has a validation split of its own "
            f"({source.counts['validation']} images): leave --validation_examples "
            f"away."
        )
    # To collect its labels, a stream has to be read to its end: once is enough.
    labels = cache.value(
        {"labels": source.fingerprint("train")}, lambda: train.labels().tolist()
    )
    labels = np.array(labels, np.int32)
    held_out = stratified_choice(labels, min(count, len(labels)), seed=0)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if set(labels[kept]) != set(labels):
        raise UserError(
            f"--validation_examples={count} is too many: {source.name} has "
            f"{len(labels)} training images in {len(source.class_names)} classes, "
            f"and each class must keep some."
        )
    return {"train": train.select(kept), "validation": train.select(held_out)}
