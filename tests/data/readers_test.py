"""The batches of both readers, and the part of them that each worker gets."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from afd_tf.base.errors import UserError
from afd_tf.data import Dataset
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.readers import MemoryReader
from tests.data.numbered import collect, numbered, numbers_of

PROPERTIES = settings(max_examples=10, deadline=None)
# Numbers of workers, and of replicas of each worker.
READERS = st.sampled_from([{}, {"streamed": True}, {"streamed": True, "held": True}])
LAYOUTS = st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (5, 1)])


def of_workers(make, layout):
    """Returns, for each worker, the elements that it gets of `make`."""
    workers, share = layout
    return [
        collect(
            make(
                replicas=workers * share,
                own=range(worker * share, (worker + 1) * share),
            )
        )
        for worker in range(workers)
    ]


@PROPERTIES
@given(
    reader=READERS,
    augment=st.sampled_from(["none", "cifar"]),
    count=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    layout=LAYOUTS,
    seed=st.integers(0, 2**31),
    first_step=st.integers(0, 150),
)
def test_every_epoch_has_each_image_once(
    *, reader, augment, count, batch_size, layout, seed, first_step
):
    workers, share = layout
    replicas = workers * share
    dataset = numbered(count, augment=augment, **reader)
    steps = dataset.steps_per_epoch(batch_size)
    first_step %= 2 * steps
    make = functools.partial(
        dataset.train_batches, batch_size=batch_size, seed=seed, epochs=2
    )
    if (count % batch_size or batch_size) < replicas:
        with pytest.raises(UserError, match="choose another --batch_size"):
            make(replicas=replicas)
        return
    whole = collect(make())
    assert len(whole) == 2 * steps
    if augment == "none":
        for epoch in range(2):
            part = whole[epoch * steps : (epoch + 1) * steps]
            seen = np.concatenate([numbers_of(batch) for batch in part])
            np.testing.assert_array_equal(np.sort(seen), np.arange(count))
            labels = np.concatenate([batch["label"] for batch in part])
            np.testing.assert_array_equal(labels, seen % 3)
    # A run that goes on after `first_step` on all these replicas sees the same.
    parts = of_workers(functools.partial(make, first_step=first_step), layout)
    assert {len(part) for part in parts} == {(2 * steps - first_step) * share}
    for step, batch in enumerate(whole[first_step:]):
        pieces = [x for part in parts for x in part[step * share : (step + 1) * share]]
        size = len(batch["label"])
        assert [len(piece["label"]) for piece in pieces] == [
            (r + 1) * size // replicas - r * size // replicas for r in range(replicas)
        ]
        for name, values in batch.items():
            joined = np.concatenate([piece[name] for piece in pieces])
            np.testing.assert_array_equal(joined, values)


@PROPERTIES
@given(
    reader=READERS,
    count=st.integers(1, 60),
    batch_size=st.integers(5, 40),
    layout=LAYOUTS,
)
def test_an_evaluation_counts_each_image_once(reader, count, batch_size, layout):
    _, share = layout
    dataset = numbered(count, **reader)
    make = functools.partial(dataset.evaluation_batches, "test", batch_size=batch_size)
    parts = of_workers(make, layout)
    steps = -(-count // batch_size)
    assert {len(part) for part in parts} == {steps * share}
    slices = [
        piece
        for step in range(steps)
        for part in parts
        for piece in part[step * share : (step + 1) * share]
    ]
    weight = np.concatenate([piece["weight"] for piece in slices])
    assert weight.dtype == np.float32 and len(weight) == steps * batch_size
    assert set(weight) <= {0.0, 1.0}
    seen = np.concatenate([numbers_of(piece) for piece in slices])
    labels = np.concatenate([piece["label"] for piece in slices])
    np.testing.assert_array_equal(seen[weight == 1], np.arange(count))
    np.testing.assert_array_equal(labels[weight == 1], np.arange(count) % 3)


def test_orders_differ_between_epochs_and_seeds():
    dataset = numbered(64)
    first, second = (
        numbers_of(batch)
        for batch in collect(dataset.train_batches(batch_size=64, seed=1, epochs=2))
    )
    (other,) = (
        numbers_of(batch)
        for batch in collect(dataset.train_batches(batch_size=64, seed=2, epochs=1))
    )
    assert (first != second).any() and (first != other).any()
    assert (first != np.arange(64)).any()


@pytest.mark.parametrize("first_step", [1, 4, 5, 9, 13])
def test_a_continued_run_gets_identical_bytes(first_step):
    dataset = numbered(37, augment="cifar")
    arguments = {"batch_size": 8, "seed": 3, "epochs": 3}
    whole = collect(dataset.train_batches(**arguments))
    tf.random.set_seed(123)
    rest = collect(
        numbered(37, augment="cifar").train_batches(**arguments, first_step=first_step)
    )
    assert len(whole) == 15 and len(rest) == 15 - first_step
    for expected, found in zip(whole[first_step:], rest, strict=True):
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["label"], expected["label"])


@pytest.mark.parametrize("reader", [{}, {"streamed": True, "held": True}])
def test_workers_of_a_continued_run_get_identical_bytes_with_the_whole_recipe(reader):
    recipe = {
        "augment": "randaugment",
        "randaugment_layers": 1,
        "random_erasing": 0.5,
        "mixup": 0.5,
        "cutmix": 1.0,
        "sampling": "balanced",
    }
    arguments = {"batch_size": 8, "seed": 3, "epochs": 3}
    whole = collect(numbered(29, **recipe, **reader).train_batches(**arguments))
    tf.random.set_seed(123)
    make = functools.partial(
        numbered(29, **recipe, **reader).train_batches, **arguments, first_step=3
    )
    parts = of_workers(make, (2, 1))
    for expected, *pieces in zip(whole[3:], *parts, strict=True):
        assert expected.keys() == {"image", "label", "mixed_label", "mixed_weight"}
        for name, values in expected.items():
            joined = np.concatenate([piece[name] for piece in pieces])
            np.testing.assert_array_equal(joined, values)


@pytest.mark.parametrize("reader", [{}, {"streamed": True}])
def test_balanced_epochs_have_each_class_equally_often(reader):
    # Images 0, 3 and 6 of class 0 against 20 of class 1 and 3 of class 2.
    kept = np.array([0, 2, 3, 5, 6, 8, *range(10, 70, 3)])
    whole = numbered(70, sampling="balanced", **reader)
    info = dataclasses.replace(whole.info, examples={"train": len(kept)})
    dataset = Dataset(info, {"train": whole._splits["train"].select(kept)})
    batches = dataset.train_batches(batch_size=10, seed=1, epochs=3)
    seen = [numbers_of(batch) for batch in collect(batches)]
    assert [len(numbers) for numbers in seen] == 3 * [10, 10, 6]
    epochs = [np.concatenate(seen[start : start + 3]) for start in (0, 3, 6)]
    for numbers in epochs:
        assert set(np.bincount(numbers % 3)) <= {8, 9}
        assert set(numbers) <= set(kept)
    # 26 draws of each class in all: no image comes twice more than another.
    times = np.bincount(np.concatenate(epochs), minlength=70)[kept]
    for label in range(3):
        of_class = times[kept % 3 == label]
        assert of_class.sum() == 26 and np.ptp(of_class) <= 1
    assert (epochs[0] != epochs[1]).any()


def test_element_specs_are_static_where_they_can_be():
    dataset = numbered(10)
    spec = dataset.train_batches(batch_size=4, seed=0, epochs=1).element_spec
    assert spec["image"] == tf.TensorSpec([None, 6, 6, 1], tf.uint8)
    assert spec["label"] == tf.TensorSpec([None], tf.int32)
    spec = dataset.evaluation_batches("test", batch_size=4).element_spec
    assert spec["image"].shape == [4, 6, 6, 1] and spec["weight"].shape == [4]


def test_mean_and_variance_are_exact():
    images = np.random.default_rng(1).integers(0, 256, [9000, 4, 4, 3], np.uint8)
    reader = MemoryReader(images, np.zeros(9000, np.int32), ImageRecipe())
    reader = reader.select(np.arange(0, 9000, 2))
    mean, variance = reader.mean_and_variance(10)
    pixels = images[::2].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, pixels.var(0), rtol=1e-10)
