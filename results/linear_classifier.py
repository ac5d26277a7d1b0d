"""Trains a linear classifier on frozen features of photos, to compare fine-tuning with.

python results/linear_classifier.py PHOTOS [PEER] > results/photos/linear.json

Logistic regression (scikit-learn, L2) on the pooled last map of PEER, by default
efficientnet_lite0@imagenet, of photos at 224 pixels, cut out as in evaluation: the same
images for training and testing as with `--dataset=folder:PHOTOS`. The strength of the
regularization is chosen by three-fold cross-validation of the training images.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from afd_tf import data
from afd_tf.data import Dataset
from afd_tf.models import Peer, build_peer

SIZE, BATCH = 224, 32


def main() -> None:
    """Prints one JSON object."""
    start = time.monotonic()
    folder, name = Path(sys.argv[1]), (*sys.argv[2:], "efficientnet_lite0@imagenet")[0]
    dataset = data.load(f"folder:{folder}", image_size=SIZE, skip_bad_images=True)
    peer = build_peer(name, dataset.info)
    features, labels = _features(peer, dataset, "train")
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(Cs=np.logspace(-4, -1, 4), cv=3, max_iter=1000),
    ).fit(features, labels)
    accuracy = classifier.score(*_features(peer, dataset, "test"))
    found = {
        "peer": name,
        "image_size": SIZE,
        "examples": dict(dataset.info.examples),
        "test_accuracy": accuracy,
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(found))


def _features(
    peer: Peer, dataset: Dataset, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [N, channels], the means of the last maps, and labels [N]."""
    features, labels = [], []
    for images, of_batch in dataset.numpy_batches(split, batch_size=BATCH):
        features.append(np.mean(peer(images).features, axis=(1, 2)))
        labels.append(of_batch)
    return np.concatenate(features), np.concatenate(labels)


if __name__ == "__main__":
    main()
