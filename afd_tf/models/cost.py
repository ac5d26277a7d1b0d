"""The arithmetic cost of a network."""

import tensorflow as tf

from afd_tf.models.peer import Peer


def multiply_adds(peer: Peer, image_shape: tuple[int, int, int]) -> int:
    """Counts the multiply-adds of convolutions and dense layers for one image.

    Args:
      peer: a built peer.
      image_shape: height, width and channels of the image.
    """

    @tf.function(autograph=False)
    def logits(images):
        return peer(images, training=False).logits

    graph = logits.get_concrete_function(
        tf.TensorSpec([1, *image_shape], tf.uint8)
    ).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            kernel = operation.inputs[1].shape
            outputs = operation.outputs[0].shape.num_elements()
            # One for each weight that an output number depends on.
            if operation.type == "DepthwiseConv2dNative":
                weights = kernel[0] * kernel[1]
            else:
                weights = kernel.num_elements() // kernel[-1]
            total += outputs * weights
    return total
