import os

import numpy as np
import pytest
import tensorflow as tf

from afd_tf import data
from afd_tf.base.errors import UserError
from afd_tf.data.cache import Cache
from afd_tf.data.encoded_memory import EncodedMemory
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.data.sharding import Share
from afd_tf.data.stream_reader import StreamReader
from afd_tf.data.tfds_source import TfdsSource

COUNTS = {"train": 40, "test": 12}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Prepares data sets with tfds' own writer; returns the function and the place."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tensorflow_datasets")

    def write(name, counts, *, shape=(8, 8, 3), labels=None, shards=1, features=None):
        generator = np.random.default_rng(len(name))

        def images(count, label):
            for index in range(count):
                size = shape if None not in shape else (6 + index % 3, 9, shape[2])
                yield {
                    "image": generator.integers(0, 256, size, np.uint8),
                    "label": index % 4 if label is None else label,
                    "id": index,
                }

        written = {
            split: list(images(count, (labels or {}).get(split)))
            for split, count in counts.items()
        }
        features = features or {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=["w", "x", "y", "z"]),
            "id": np.int64,
        }
        tfds.dataset_builders.TfDataBuilder(
            name=name,
            version="1.2.3",
            data_dir=root,
            split_datasets={
                split: tf.data.Dataset.from_generator(
                    lambda images=images: iter(images),
                    output_signature={
                        "image": tf.TensorSpec(shape, tf.uint8),
                        "label": tf.TensorSpec([], tf.int64),
                        "id": tf.TensorSpec([], tf.int64),
                    },
                )
                for split, images in written.items()
            },
            features=tfds.features.FeaturesDict(features),
        ).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=shards)
        )
        return written

    return write, str(root)


def everything(dataset, split):
    batches = list(dataset.evaluation_batches(split, batch_size=16).as_numpy_iterator())
    weight = np.concatenate([batch["weight"] for batch in batches]) == 1
    return tuple(
        np.concatenate([batch[name] for batch in batches])[weight]
        for name in ("image", "label")
    )


def table_of(images, labels):
    return sorted(
        (image.tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )


@pytest.fixture(scope="module")
def plain(store):
    write, root = store
    return write("plain", COUNTS, shards=5), root


@pytest.mark.parametrize("streamed", [False, True])
def test_images_and_labels(plain, monkeypatch, streamed):
    written, root = plain
    if streamed:
        monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    dataset = data.load("plain", data_dir=root)
    assert dataset.info.image_shape == (8, 8, 3)
    assert dataset.info.class_names == ("w", "x", "y", "z")
    assert dataset.info.examples == {"train": 40, "validation": 0, "test": 12}
    for split, images in written.items():
        expected = table_of(
            [image["image"] for image in images],
            [image["label"] for image in images],
        )
        assert table_of(*everything(dataset, split)) == expected
    pixels = np.stack([image["image"] for image in written["train"]])
    pixels = pixels.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(dataset.info.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.info.variance, pixels.var(0), rtol=1e-9)


def test_a_stream_repeats_itself_and_reshuffles(plain, monkeypatch):
    _, root = plain
    held = data.load("plain", data_dir=root, augment="none", validation_examples=7)
    monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    streamed = data.load("plain", data_dir=root, augment="none", validation_examples=7)
    assert streamed.info == held.info
    for split in ("train", "validation"):
        assert table_of(*everything(streamed, split)) == table_of(
            *everything(held, split)
        )
    arguments = {"batch_size": 8, "seed": 3, "epochs": 3}
    # As `train` does with --seed=0; it must not matter.
    tf.random.set_seed(0)
    whole = list(streamed.train_batches(**arguments).as_numpy_iterator())
    tf.random.set_seed(5)
    assert [len(batch["label"]) for batch in whole] == [8, 8, 8, 8, 1] * 3
    expected = table_of(*everything(held, "train"))
    epochs = []
    for epoch in range(3):
        part = whole[epoch * 5 : epoch * 5 + 5]
        images = np.concatenate([batch["image"] for batch in part])
        labels = np.concatenate([batch["label"] for batch in part])
        assert table_of(images, labels) == expected
        epochs.append(images)
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    rest = list(streamed.train_batches(**arguments, first_step=7).as_numpy_iterator())
    assert len(rest) == 8
    for left, right in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
        np.testing.assert_array_equal(left["label"], right["label"])


def test_files_in_memory_are_in_the_order_of_the_stream(plain, tmp_path):
    _, root = plain
    source = TfdsSource(
        "plain",
        data_dir=root,
        download=False,
        image_size=None,
        train_split="train[10%:]",
        test_split=None,
        cache=Cache(tmp_path),
    )
    assert source.encoded_bytes("train") > 36 * 8 * 8 * 3
    plain = ImageRecipe(augment="imagenet")
    balanced = ImageRecipe(augment="imagenet", mixup=0.5, sampling="balanced")
    for indices, recipe in (
        (np.arange(1, 36, 3), plain),
        (np.arange(30), balanced),
    ):
        seeds = {"batch_size": 8, "seed": 3, "epochs": 2, "first_step": 1}
        share = Share(2, range(1, 2))
        streamed, held = (
            list(
                StreamReader(each, "train", recipe, indices=indices)
                .train_batches(**seeds, share=share)
                .as_numpy_iterator()
            )
            for each in (source, EncodedMemory(source))
        )
        assert len(streamed) == len(held) == 2 * -(-len(indices) // 8) - 1
        for left, right in zip(streamed, held, strict=True):
            np.testing.assert_array_equal(left["image"], right["image"])
            np.testing.assert_array_equal(left["label"], right["label"])


def test_the_second_start_needs_no_tfds(plain, monkeypatch):
    from afd_tf.data import tfds_metadata

    _, root = plain
    first = data.load("plain", data_dir=root)
    monkeypatch.setattr(tfds_metadata, "find_dataset", None)
    second = data.load("plain", data_dir=root)
    assert second.info == first.info


def test_changed_files_are_seen(store):
    write, root = store
    write("changing", COUNTS)
    before = data.load("changing", data_dir=root).info
    directory = os.path.join(root, "changing/1.2.3")
    for name in os.listdir(directory):
        os.remove(os.path.join(directory, name))
    os.rmdir(directory)
    with pytest.raises(UserError, match="'changing'"):
        data.load("changing", data_dir=root)
    write("changing", {"train": 20, "test": 4})
    after = data.load("changing", data_dir=root).info
    assert (before.examples["train"], after.examples["train"]) == (40, 20)


def test_parts_of_splits(store):
    write, root = store
    written = write("only_train", {"train": 20})
    with pytest.raises(UserError, match=r"--train_split='train\[:80%\]'"):
        data.load("only_train", data_dir=root)
    dataset = data.load(
        "only_train", data_dir=root, train_split="train[:80%]", test_split="train[80%:]"
    )
    assert dataset.info.examples == {"train": 16, "validation": 0, "test": 4}
    both = [everything(dataset, split) for split in ("train", "test")]
    assert table_of(
        np.concatenate([both[0][0], both[1][0]]),
        np.concatenate([both[0][1], both[1][1]]),
    ) == table_of(
        [image["image"] for image in written["train"]],
        [image["label"] for image in written["train"]],
    )
    for split in ("nothing", "train[:x]", "train[:0]"):
        with pytest.raises(UserError, match=r"--test_split="):
            data.load("only_train", data_dir=root, test_split=split)


def test_withheld_labels_make_validation_the_test_split(store):
    write, root = store
    write("withheld", {"train": 8, "validation": 6, "test": 5}, labels={"test": -1})
    info = data.load("withheld", data_dir=root).info
    assert info.examples == {"train": 8, "validation": 0, "test": 6}


def test_validation_beside_test(store):
    write, root = store
    write("three", {"train": 8, "validation": 6, "test": 5})
    info = data.load("three", data_dir=root).info
    assert info.examples == {"train": 8, "validation": 6, "test": 5}


@pytest.mark.parametrize("streamed", [False, True])
def test_images_of_different_sizes(store, monkeypatch, streamed):
    write, root = store
    write(f"sizes_{streamed}".lower(), COUNTS, shape=(None, None, 3))
    if streamed:
        monkeypatch.setattr("afd_tf.data.sources.MAX_IN_MEMORY_BYTES", 0)
    name = f"sizes_{streamed}".lower()
    with pytest.raises(UserError, match=r"from 6x9 to 8x9 .*--image_size=N"):
        data.load(name, data_dir=root)
    dataset = data.load(name, data_dir=root, image_size=5)
    assert dataset.info.image_shape == (5, 5, 3)
    assert everything(dataset, "train")[0].shape == (40, 5, 5, 3)


def test_features_that_do_not_fit(store):
    import tensorflow_datasets as tfds

    write, root = store
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": np.int64,
        "id": np.int64,
    }
    write("regression", {"train": 4, "test": 4}, features=features)
    with pytest.raises(
        UserError, match="found id: Tensor, image: Image, label: Tensor"
    ):
        data.load("regression", data_dir=root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_100", "unknown data set 'cifar_100'. Did you mean 'cifar100'"),
        ("cifar10/nothing", "nothing not found"),
        ("cifar10:9.9.9", "cannot be loaded at version 9.9.9"),
        ("two words", "cannot be opened by tensorflow-datasets"),
        ("imagenet2012", "by hand into .*manual.*ILSVRC2012_img_train.tar"),
        ("cifar100", "is not prepared in .* and --nodownload forbids"),
        ("coco", "found image: Image, .*objects: Sequence"),
    ],
)
def test_mistakes(tmp_path, name, message):
    download = name != "cifar100"
    with pytest.raises(UserError, match=message) as error:
        data.load(name, data_dir=str(tmp_path), download=download)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
