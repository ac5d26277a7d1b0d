"""Each image counts once, and the data set is the one that the run had."""

from pathlib import Path

import numpy as np

from afd_tf.artifacts.classifier import Classifier
from afd_tf.artifacts.evaluation import (
    compare_networks,
    predict_split,
)
from afd_tf.artifacts.networks import ClassifierNetwork
from tests.exports import random_images


class FewImages:
    """Five images in batches of two, whatever size is asked for."""

    def __init__(self, info):
        self.info = info
        self.images = random_images(info.image_shape, 5)
        self.labels = np.int32([3, 1, 4, 1, 5])

    def numpy_batches(self, split, *, batch_size):
        assert split == "test"
        for start in (0, 2, 4):
            yield self.images[start : start + 2], self.labels[start : start + 2]


def test_each_image_is_classified_once(digits):
    few = FewImages(digits.info)
    table = {
        "first": [(9, 3), (9, 1), (1, 0), (9, 2), (9, 5)],
        "second": [(1, 7), (1, 1), (9, 4), (1, 6), (5, 0)],
    }

    def network(name):
        def logits(images):
            result = np.zeros((len(images), 10), np.float32)
            for row, image in enumerate(images):
                index = next(i for i in range(5) if (few.images[i] == image).all())
                height, label = table[name][index]
                result[row, label] = height
            return result

        return ClassifierNetwork(name, logits)

    classifier = Classifier(
        path=Path("x"),
        format="checkpoint",
        info=digits.info,
        run_flags={},
        networks=[network("first"), network("second")],
        chosen=1,
    )
    # The labels are 3, 1, 4, 1, 5. "first" says 3, 1, 0, 2, 5 and "second" 7, 1, 4, 6,
    # 0; the mean of their probabilities follows the one with the higher logit: 3, 1,
    # 4, 2, 5.
    found = predict_split(classifier, few)
    assert found.labels.tolist() == [3, 1, 4, 1, 5]
    assert found.networks.tolist() == [[3, 1, 0, 2, 5], [7, 1, 4, 6, 0]]
    assert found.ensemble.tolist() == [3, 1, 4, 2, 5]


def test_differences_of_networks_by_hand(digits):
    few = FewImages(digits.info)

    def network(name, shift):
        def logits(images):
            result = np.zeros((len(images), 10), np.float32)
            for row, image in enumerate(images):
                index = next(i for i in range(5) if (few.images[i] == image).all())
                result[row, few.labels[index]] = -8 if index == 2 else 4
                if index in (0, 2):
                    result[row, 6] += shift
            return result

        return ClassifierNetwork(name, logits)

    # The first is wrong about the third image, where 0 is as high as any other; the
    # second says 6 there, and agrees about the others; the third says 6 of the first
    # too.
    networks = [network("own", 0), network("near", 2), network("far", 5)]
    found = compare_networks(networks, few)
    # Of the labels 3, 1, 4, 1, 5, the 4 is taken for a 0.
    assert found[0].pop("class_examples") == [0, 2, 0, 1, 1, 1, 0, 0, 0, 0]
    none = None
    accuracies = [none, 1.0, none, 1.0, 0.0, 1.0, none, none, none, none]
    assert found[0].pop("class_accuracy") == accuracies
    assert found[0].pop("most_confused") == [[4, 0, 1]]
    differences = [each.pop("probability_difference") for each in found]
    assert found == [
        {"examples": 5, "accuracy": 0.8, "agreement": 1.0},
        {"examples": 5, "accuracy": 0.8, "agreement": 0.8},
        {"examples": 5, "accuracy": 0.6, "agreement": 0.6},
    ]
    # The sixth class is likelier most of all in the third image, whose others are at 0
    # but for the true one: the sum of their powers is 8 + exp(-8) besides.
    rest = 8 + np.exp(-8)
    expected = [
        np.exp(shift) / (np.exp(shift) + rest) - 1 / (1 + rest) for shift in (0, 2, 5)
    ]
    np.testing.assert_allclose(differences, expected, rtol=1e-12, atol=1e-12)
