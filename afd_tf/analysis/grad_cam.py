"""Grad-CAM: the places in an image that speak for a class."""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from afd_tf.analysis.run_peers import RunPeer
from afd_tf.models import Peer


class ImageSampler:
    """Draws images at random from batches; those of a group are equally likely.

    Args:
      quotas: the number of images to draw for each label; the label None stands for
        all labels together.
      seed: seed of the draw.
    """

    def __init__(self, quotas: Mapping[int | None, int], seed: int):
        self._quotas = dict(quotas)
        self._generator = np.random.default_rng(seed)
        # (key, image, label): those with the smallest random keys so far.
        self._drawn = {label: [] for label in quotas}

    def update(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Offers images, uint8 [B, h, w, c], and their labels, int [B], to the draw."""
        keys = self._generator.random(len(labels))
        for label, quota in self._quotas.items():
            wanted = np.full(len(labels), True) if label is None else labels == label
            offered = zip(keys[wanted], images[wanted], labels[wanted], strict=True)
            self._drawn[label] = heapq.nsmallest(
                quota, [*self._drawn[label], *offered], key=lambda entry: entry[0]
            )

    def result(self) -> tuple[list[np.ndarray], list[int]]:
        """Returns images uint8 [h, w, c] and their labels, group after group.

        A group with fewer images than its quota gives all of them.
        """
        entries = [entry for drawn in self._drawn.values() for entry in drawn]
        return [image for _, image, _ in entries], [int(each) for *_, each in entries]


class GradCam(NamedTuple):
    """Grad-CAM maps of some images, and the network's predictions for them.

    Attributes:
      maps: float32 [B, h, w] of the images' size, 0..1.
      predicted: int32 [B], the most probable class.
      probabilities: float32 [B], the probability of that class.
    """

    maps: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def grad_cam(
    peer: Peer, images: np.ndarray, classes: Sequence[int] | None = None
) -> GradCam:
    """Computes Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of a peer.

    With F for the peer's `features`, the map is ReLU(sum over channels k of weight_k
    F_k), where weight_k is the mean over positions of the gradient of the class's
    logit with respect to F_k. It is enlarged and scaled as by `enlarge`, so that the
    maps of different images or networks can be compared in place, not in strength.

    Args:
      peer: a built peer.
      images: uint8 [B, h, w, c], raw pixels.
      classes: int [B], the classes to explain; None takes the predicted ones.
    """
    features = tf.cast(peer(images, training=False).features, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = peer.classify(features)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        chosen = predicted if classes is None else tf.constant(classes, tf.int32)
        # An image's logit depends on its own map alone.
        scores = tf.gather(logits, chosen, batch_dims=1)
    gradients = tape.gradient(scores, features)
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))  # [B, h, w]
    return GradCam(
        maps=enlarge(maps.numpy(), images.shape[1:3]),
        predicted=predicted.numpy(),
        probabilities=np.max(tf.nn.softmax(logits).numpy(), axis=-1),
    )


def enlarge(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes maps bilinearly, then divides each one by its largest value.

    Args:
      maps: float32 [B, h, w], not negative.
      size: the height and width of the result.

    Returns:
      float32 [B, *size], 0..1; a map of zeros stays a map of zeros.
    """
    large = tf.image.resize(maps[..., np.newaxis], size)[..., 0].numpy()
    peaks = np.max(large, axis=(1, 2), keepdims=True)
    return large / np.where(peaks > 0, peaks, 1)


def grad_cams(
    run_peers: Sequence[RunPeer],
    images: np.ndarray,
    classes: Sequence[int] | None = None,
) -> dict[str, GradCam]:
    """Returns the result of `grad_cam` for each peer, by its name."""
    return {each.name: grad_cam(each.peer, images, classes) for each in run_peers}
