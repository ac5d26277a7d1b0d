"""The readers of the splits of a source."""

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.encoded_memory import EncodedMemory, EncodedSource
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.readers import MemoryReader, Reader
from afd_tf.data.sources import Source
from afd_tf.data.stratification import stratified_choice
from afd_tf.data.stream_reader import StreamReader


def stream_splits(
    encoded: EncodedSource,
    recipe: ImageRecipe,
    *,
    memory_bytes: float,
    evaluation_fraction: float,
) -> dict[str, Reader]:
    """Returns readers that decode images whenever they are needed.

    Args:
      encoded: the images.
      recipe: of the training batches.
      memory_bytes: encoded images of no more bytes are kept in memory, and as many
        bytes of the decoded images of an evaluation.
      evaluation_fraction: see `StreamReader`.
    """
    if sum(map(encoded.encoded_bytes, encoded.counts)) <= memory_bytes:
        encoded = EncodedMemory(encoded)
    return {
        split: StreamReader(
            encoded,
            split,
            recipe,
            evaluation_fraction=evaluation_fraction,
            memory_bytes=memory_bytes,
        )
        for split in encoded.counts
    }


def decode_splits(
    source: Source, cache: Cache, recipe: ImageRecipe
) -> dict[str, Reader]:
    """Returns readers of images that are decoded now, or were in an earlier run."""
    splits = {}
    for split in source.counts:
        images, labels = cache.images(
            {"images": source.fingerprint(split)},
            lambda split=split: source.read(split),
        )
        splits[split] = MemoryReader(images, labels, recipe)
    return splits


def hold_out_validation(source: Source, train: Reader, count: int) -> dict[str, Reader]:
    """Divides the training images; returns readers for "train" and "validation"."""
    if "validation" in source.counts:
        raise UserError(
            f"{source.name} has a validation split of its own "
            f"({source.counts['validation']} images): leave --validation_examples "
            f"away."
        )
    labels = train.labels()
    held_out = stratified_choice(labels, min(count, len(labels)), seed=0)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if set(labels[kept]) != set(labels):
        raise UserError(
            f"--validation_examples={count} is too many: {source.name} has "
            f"{len(labels)} training images in {len(source.class_names)} classes, "
            f"and each class must keep some."
        )
    return {"train": train.select(kept), "validation": train.select(held_out)}
