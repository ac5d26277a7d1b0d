"""The readers of the splits of a source."""

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.encoded_memory import EncodedMemory, EncodedSource
from afd_tf.data.readers import MemoryReader, Reader
from afd_tf.data.sampling import stratified_choice
from afd_tf.data.sources import Source
from afd_tf.data.stream_reader import StreamReader


def stream_splits(
    encoded: EncodedSource,
    *,
    augment: str,
    padding: str,
    memory_bytes: float,
    evaluation_fraction: float | None,
) -> dict[str, Reader]:
    """Returns readers that decode images whenever they are needed."""
    if sum(map(encoded.encoded_bytes, encoded.counts)) <= memory_bytes:
        encoded = EncodedMemory(encoded)
    return {
        split: StreamReader(
            encoded,
            split,
            augment=augment,
            padding=padding,
            evaluation_fraction=evaluation_fraction,
        )
        for split in encoded.counts
    }


def decode_splits(
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


def hold_out_validation(
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
