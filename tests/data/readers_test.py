import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from afd_tf.data import Dataset, DatasetInfo, readers, shuffle, sources
from afd_tf.errors import UserError

SIDE = 6


def pictures(count):
    """Picture i says i in its first two pixels; label i % 3."""
    images = np.zeros([count, SIDE, SIDE, 1], np.uint8)
    numbers = np.arange(count)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
    images[:, 2:] = np.random.default_rng(0).integers(
        0, 256, images[:, 2:].shape, np.uint8
    )
    return images, (numbers % 3).astype(np.int32)


class NumberedSource:
    """A source to stream from, that counts how often each picture is decoded."""

    image_shape = (SIDE, SIDE, 1)

    def __init__(self, count):
        self.counts = {"train": count, "test": count}
        self.images, self._labels = pictures(count)
        self.decoded = np.zeros(count, int)

    def labels(self, split):
        return self._labels

    def examples(self, split, indices, shuffle_seed):
        order = tf.constant(indices)
        if shuffle_seed is not None:
            order = tf.gather(order, shuffle.permutation(len(indices), shuffle_seed))
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: (index, tf.gather(self._labels, index))
        )

    def decode(self, undecoded):
        def decode(index):
            self.decoded[index] += 1
            return self.images[index]

        image = tf.numpy_function(decode, [undecoded], tf.uint8)
        return tf.ensure_shape(image, self.image_shape)


def numbered(count, *, augment="none", streamed=False):
    """A data set of `pictures`, and its readers by split."""
    if streamed:
        source = NumberedSource(count)
        splits = {
            split: readers.StreamReader(
                source, split, augment=augment, padding="reflect"
            )
            for split in ("train", "test")
        }
    else:
        reader = readers.MemoryReader(
            *pictures(count), augment=augment, padding="reflect"
        )
        splits = {"train": reader, "test": reader}
    info = DatasetInfo(
        name="numbered",
        image_shape=(SIDE, SIDE, 1),
        class_names=("a", "b", "c"),
        examples={"train": count, "validation": 0, "test": count},
        mean=(0.0,),
        variance=(1.0,),
        augment=augment,
    )
    return Dataset(info, splits)


def numbers_of(batch):
    image = np.asarray(batch["image"]).astype(int)
    return image[:, 0, 0, 0] * 256 + image[:, 0, 1, 0]


def collect(batches):
    return list(batches.as_numpy_iterator())


PROPERTIES = settings(max_examples=15, deadline=None)
# How many workers, and replicas of each.
LAYOUTS = st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (5, 1)])


def deal(make, layout):
    """Returns the elements that each worker gets of `make`."""
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
    streamed=st.booleans(),
    augment=st.sampled_from(["none", "cifar"]),
    count=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    layout=LAYOUTS,
    seed=st.integers(0, 2**31),
    first_step=st.integers(0, 150),
)
def test_every_epoch_has_each_picture_once(
    *, streamed, augment, count, batch_size, layout, seed, first_step
):
    workers, share = layout
    replicas = workers * share
    dataset = numbered(count, augment=augment, streamed=streamed)
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
    parts = deal(functools.partial(make, first_step=first_step), layout)
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
    streamed=st.booleans(),
    count=st.integers(1, 60),
    batch_size=st.integers(5, 40),
    layout=LAYOUTS,
)
def test_an_evaluation_counts_each_picture_once(streamed, count, batch_size, layout):
    _, share = layout
    dataset = numbered(count, streamed=streamed)
    make = functools.partial(dataset.evaluation_batches, "test", batch_size=batch_size)
    parts = deal(make, layout)
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


def test_a_worker_decodes_its_share_of_a_stream_alone():
    dataset = numbered(46, streamed=True)
    source = dataset._splits["train"]._source
    for make in (
        functools.partial(dataset.train_batches, batch_size=8, seed=0, epochs=1),
        functools.partial(dataset.evaluation_batches, "test", batch_size=8),
    ):
        decoded = []
        for worker in range(3):
            source.decoded[:] = 0
            collect(make(replicas=6, own=range(2 * worker, 2 * worker + 2)))
            decoded.append(source.decoded.copy())
        np.testing.assert_array_equal(sum(decoded), np.ones(46))
        assert max(map(np.sum, decoded)) < 20


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


def test_pictures_enough_for_every_part_of_every_replica():
    arguments = {"batch_size": 4, "seed": 0, "epochs": 1, "least": 2}
    with pytest.raises(UserError, match="2 pictures for 2 replicas in 2 parts each"):
        numbered(10).train_batches(**arguments, replicas=2)
    assert len(collect(numbered(12).train_batches(**arguments, replicas=2))) == 6
    assert len(collect(numbered(10).train_batches(**arguments))) == 3


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
