import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from afd_tf.data import Dataset, DatasetInfo, readers, sources
from afd_tf.errors import UserError


def numbered(count, *, augment="none", side=6):
    """A data set whose picture i says i in its first two pixels; label i % 3."""
    images = np.zeros([count, side, side, 1], np.uint8)
    numbers = np.arange(count)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
    images[:, 2:] = np.random.default_rng(0).integers(
        0, 256, images[:, 2:].shape, np.uint8
    )
    reader = readers.MemoryReader(
        images, (numbers % 3).astype(np.int32), augment=augment, padding="reflect"
    )
    info = DatasetInfo(
        name="numbered",
        image_shape=(side, side, 1),
        class_names=("a", "b", "c"),
        examples={"train": count, "validation": 0, "test": count},
        mean=(0.0,),
        variance=(1.0,),
        augment=augment,
    )
    return Dataset(info, {"train": reader, "test": reader})


def numbers_of(batch):
    image = np.asarray(batch["image"]).astype(int)
    return image[:, 0, 0, 0] * 256 + image[:, 0, 1, 0]


def collect(batches):
    return list(batches.as_numpy_iterator())


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(3, 70),
    batch_size=st.integers(1, 40),
    replicas=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_epoch_has_each_picture_once(count, batch_size, replicas, seed):
    dataset = numbered(count)
    arguments = {"batch_size": batch_size, "seed": seed, "epochs": 2}
    if (count % batch_size or batch_size) < replicas:
        with pytest.raises(UserError, match="choose another --batch_size"):
            dataset.train_batches(**arguments, replicas=replicas)
        return
    slices = collect(dataset.train_batches(**arguments, replicas=replicas))
    steps = dataset.steps_per_epoch(batch_size)
    assert len(slices) == 2 * steps * replicas
    for epoch in range(2):
        part = slices[epoch * steps * replicas : (epoch + 1) * steps * replicas]
        seen = np.concatenate([numbers_of(batch) for batch in part])
        np.testing.assert_array_equal(np.sort(seen), np.arange(count))
        labels = np.concatenate([batch["label"] for batch in part])
        np.testing.assert_array_equal(labels, seen % 3)
    sizes = [len(batch["label"]) for batch in slices[:replicas]]
    size = min(batch_size, count)
    assert sizes == [
        (r + 1) * size // replicas - r * size // replicas for r in range(replicas)
    ]


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(6, 60),
    batch_size=st.integers(4, 30),
    layout=st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 1)]),
    first_step=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_the_workers_together_have_the_batches_of_one(
    count, batch_size, layout, first_step, seed
):
    workers, share = layout
    replicas = workers * share
    if (count % batch_size or batch_size) < replicas:
        return
    arguments = {
        "batch_size": batch_size,
        "seed": seed,
        "epochs": 2,
        "first_step": first_step,
    }
    dataset = numbered(count)
    whole = collect(dataset.train_batches(**arguments))
    parts = [
        collect(
            dataset.train_batches(
                **arguments,
                replicas=replicas,
                own=range(worker * share, (worker + 1) * share),
            )
        )
        for worker in range(workers)
    ]
    for step, batch in enumerate(whole):
        pieces = [
            numbers_of(piece)
            for part in parts
            for piece in part[step * share : (step + 1) * share]
        ]
        np.testing.assert_array_equal(np.concatenate(pieces), numbers_of(batch))
    assert {len(part) for part in parts} == {len(whole) * share}


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


def test_nothing_is_left_after_the_last_step():
    assert (
        collect(numbered(8).train_batches(batch_size=4, seed=0, epochs=3, first_step=6))
        == []
    )


@pytest.mark.parametrize("replicas", [2, 3])
def test_the_slices_are_the_batch(replicas):
    dataset = numbered(37, augment="cifar")
    arguments = {"batch_size": 16, "seed": 3, "epochs": 1}
    whole = collect(dataset.train_batches(**arguments))
    slices = collect(dataset.train_batches(**arguments, replicas=replicas))
    for step, batch in enumerate(whole):
        part = slices[step * replicas : (step + 1) * replicas]
        for name in ("image", "label"):
            joined = np.concatenate([piece[name] for piece in part])
            np.testing.assert_array_equal(joined, batch[name])


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 16)])
def test_evaluation_counts_each_picture_once(count, batch_size, replicas):
    batches = numbered(count).evaluation_batches(
        "test", batch_size=batch_size, replicas=replicas
    )
    slices = collect(batches)
    assert len(slices) == -(-count // batch_size) * replicas
    weight = np.concatenate([batch["weight"] for batch in slices])
    assert weight.dtype == np.float32 and len(weight) % batch_size == 0
    assert set(weight) <= {0.0, 1.0}
    seen = np.concatenate([numbers_of(batch) for batch in slices])
    labels = np.concatenate([batch["label"] for batch in slices])
    np.testing.assert_array_equal(seen[weight == 1], np.arange(count))
    np.testing.assert_array_equal(labels[weight == 1], np.arange(count) % 3)


def test_element_specs_are_static_where_they_can_be():
    dataset = numbered(10)
    spec = dataset.train_batches(batch_size=4, seed=0, epochs=1).element_spec
    assert spec["image"] == tf.TensorSpec([None, 6, 6, 1], tf.uint8)
    assert spec["label"] == tf.TensorSpec([None], tf.int32)
    spec = dataset.evaluation_batches("test", batch_size=4).element_spec
    assert spec["image"].shape == [4, 6, 6, 1] and spec["weight"].shape == [4]


def test_an_unknown_split():
    with pytest.raises(UserError, match="no split 'validation'; it has train, test"):
        numbered(10).evaluation_batches("validation", batch_size=4)


def test_mean_and_variance_are_exact():
    images = np.random.default_rng(1).integers(0, 256, [9000, 4, 4, 3], np.uint8)
    reader = readers.MemoryReader(
        images, np.zeros(9000, np.int32), augment="none", padding="zero"
    ).select(np.arange(0, 9000, 2))
    mean, variance = reader.mean_and_variance(10)
    pixels = images[::2].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, pixels.var(0), rtol=1e-10)


def test_shuffling_is_fair():
    # Where picture 0 of 10 comes in the order, over 3,000 epochs.
    batches = numbered(10).train_batches(batch_size=10, seed=0, epochs=3000)
    places = [int(np.argmin(numbers_of(batch))) for batch in collect(batches)]
    seen = np.bincount(places, minlength=10)
    assert np.sum((seen - 300) ** 2 / 300) < 34  # 9 degrees of freedom: p = 1e-4


def test_stratified_choice():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    np.random.default_rng(0).shuffle(labels)
    chosen = sources.stratified_choice(labels, 100, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [50, 30, 20])
    assert len(set(chosen.tolist())) == 100
    np.testing.assert_array_equal(
        chosen, sources.stratified_choice(labels, 100, seed=0)
    )
    assert (chosen != sources.stratified_choice(labels, 100, seed=1)).any()
    assert len(sources.stratified_choice(labels, 0, seed=0)) == 0
    everything = sources.stratified_choice(labels, 1000, seed=0)
    np.testing.assert_array_equal(everything, np.arange(1000))
