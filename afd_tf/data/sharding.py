"""The part of every batch that one process reads."""

import dataclasses

import numpy as np
import tensorflow as tf

# A whole number, in Python, NumPy or TensorFlow.
Integer = int | np.ndarray | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Share:
    """The replicas of one process, and the images of a batch that belong to them.

    Replica r of R takes the images r * B // R to (r + 1) * B // R of a batch of B.

    Attributes:
      replicas: R, the number of replicas in all processes together.
      own: the numbers of this process' replicas.
    """

    replicas: int
    own: range

    def bounds(self, size: Integer) -> tuple[Integer, Integer]:
        """Returns where this process' images begin and end in a batch.

        Args:
          size: the number of images in the whole batch.

        Returns:
          the position of the first image, and the one after the last.
        """
        return (
            self.own.start * size // self.replicas,
            self.own.stop * size // self.replicas,
        )

    def holds(self, position: Integer, size: Integer) -> Integer:
        """Returns whether an image belongs to this process, as bool.

        Args:
          position: of the image in the whole batch, 0..size-1.
          size: the number of images in the whole batch.
        """
        start, stop = self.bounds(size)
        return (start <= position) & (position < stop)

    def count(self, size: Integer, *, with_partners: bool) -> Integer:
        """Returns the number of this process' images in a batch.

        Args:
          size: the number of images in the whole batch.
          with_partners: whether the images count with which they are mixed, that of
            image p being size - 1 - p.
        """
        start, stop = self.bounds(size)
        if not with_partners:
            return stop - start
        # An image and its partner may both belong to this process.
        both = tf.minimum(stop, size - start) - tf.maximum(start, size - stop)
        return 2 * (stop - start) - tf.maximum(both, 0)

    def without_partners(
        self, batch: dict[str, tf.Tensor], size: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns this process' images out of those that `count` counts.

        Args:
          batch: of these images and their partners, in the order of the whole batch.
          size: the number of images in the whole batch, int64.
        """
        start, stop = self.bounds(size)
        first = tf.maximum(tf.minimum(start, size - start) - (size - stop), 0)
        return {
            name: values[first : first + stop - start] for name, values in batch.items()
        }

    def split_per_replica(
        self, batches: tf.data.Dataset, first: Integer = 0, size: Integer | None = None
    ) -> tf.data.Dataset:
        """Cuts every batch into one element for each replica of this process.

        With a single replica, the batches stay as they are.

        Args:
          batches: dictionaries of tensors [n, ...], "label" among them: whole batches,
            or the part of each that holds all images of this process.
          first: position in the whole batch of the first image given, int64.
          size: the number of images in the whole batch, int64; None where `batches`
            are whole.

        Returns:
          for each batch, the elements of the replicas `own`, in this order.
        """
        if self.replicas == 1:
            return batches

        def cut(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            whole = tf.shape(batch["label"], tf.int64)[0] if size is None else size

            def of_replica(replica: tf.Tensor) -> dict[str, tf.Tensor]:
                start = replica * whole // self.replicas - first
                stop = (replica + 1) * whole // self.replicas - first
                return {name: values[start:stop] for name, values in batch.items()}

            return tf.data.Dataset.range(self.own.start, self.own.stop).map(of_replica)

        return batches.flat_map(cut)
