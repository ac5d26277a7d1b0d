"""The labels of plain and of mixed batches."""

import numpy as np
import tensorflow as tf

from afd_tf.distill.labels import MixedLabels, labels_of, own_labels
from afd_tf.distill.metrics import top1_correct
from afd_tf.distill.step import accumulate_microbatches

MIXED = {
    "label": tf.constant([1, 0, 2]),
    "mixed_label": tf.constant([2, 0, 1]),
    "mixed_weight": tf.constant([0.75, 0.75, 0.75]),
}


def test_labels_of_a_batch():
    assert labels_of({"label": MIXED["label"]}) is MIXED["label"]
    labels = labels_of(MIXED)
    assert labels == MixedLabels(*MIXED.values())
    assert own_labels(labels) is MIXED["label"] is own_labels(MIXED["label"])


def test_the_accuracy_counts_the_images_own_labels():
    scores = tf.one_hot([1, 1, 1], 3)
    np.testing.assert_array_equal(top1_correct(labels_of(MIXED), scores), [1, 0, 0])


def test_microbatches_keep_images_and_labels_together():
    images = tf.range(7)
    labels = MixedLabels(images * 10, images * 100, tf.cast(images, tf.float32))

    def work(images, labels):
        assert isinstance(labels, MixedLabels)
        return [tf.reduce_sum(tf.square(images)), *map(tf.reduce_sum, labels)], [
            tf.reduce_sum(images * labels.own),
            tf.reduce_sum(tf.cast(images, tf.float32) * labels.weight),
        ]

    whole, divided = (
        accumulate_microbatches(work, count, images, labels) for count in (1, 3)
    )
    tf.nest.map_structure(np.testing.assert_array_equal, whole, divided)
