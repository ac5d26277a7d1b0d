"""The data sets: `load` opens one, `from_flags` the one that the flags describe.

Images are raw uint8 pixels 0..255 from here to the model, which normalizes them with
the mean and the variance in `DatasetInfo`.
"""

from collections.abc import Mapping
from pathlib import Path

from absl import flags

from afd_tf.base.run_flags import operational
from afd_tf.data.augment import AUGMENTATIONS, PADDINGS
from afd_tf.data.dataset import Dataset, load
from afd_tf.data.dataset_info import DatasetInfo

__all__ = ["Dataset", "DatasetInfo", "from_flags", "from_flags_of_run", "load"]

_DATASET = flags.DEFINE_string(
    "dataset",
    "digits",
    "The data set: a tensorflow-datasets name (cifar100, mnist, cifar10_1/v4), "
    "folder:PATH (with PATH/train/<class>/*.png and PATH/test/<class>/*.png), or "
    "digits (small, needs no network).",
)
_DATA_DIR = operational(
    flags.DEFINE_string(
        "data_dir",
        None,
        "Directory of prepared tfds data sets; by default the one that tfds uses.",
    )
)
_DOWNLOAD = operational(
    flags.DEFINE_boolean(
        "download",
        True,
        "Download and prepare a tfds data set that is not prepared yet.",
    )
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Crop the central square of each image and resize it to N x N pixels.",
    lower_bound=1,
)
_AUGMENT = flags.DEFINE_enum(
    "augment",
    "auto",
    ["auto", *AUGMENTATIONS],
    "Augmentation of training images: none, cifar (pad by 4 pixels, crop, mirror) or "
    "imagenet (random resized crop, mirror). auto chooses none for grey images and "
    "digits, cifar for other images of up to 64 pixels, imagenet for larger ones.",
)
_PADDING = flags.DEFINE_enum(
    "padding",
    "reflect",
    PADDINGS,
    "Pixels around an image that --augment=cifar crops: its reflected edges, or zeros.",
)
_VALIDATION_EXAMPLES = flags.DEFINE_integer(
    "validation_examples",
    0,
    "Number of training images to hold out for validation: each class in proportion, "
    "and the same images for every --seed.",
    lower_bound=0,
)
_TRAIN_SPLIT = flags.DEFINE_string(
    "train_split", None, "Training split of a tfds data set, e.g. train[:80%]."
)
_TEST_SPLIT = flags.DEFINE_string(
    "test_split", None, "Test split of a tfds data set, e.g. train[80%:]."
)
_CACHE_DIR = operational(
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Directory in which decoded images are kept between runs; by default "
        "$XDG_CACHE_HOME/afd_tf or ~/.cache/afd_tf.",
    )
)


def from_flags(*, expected: DatasetInfo | None = None) -> Dataset:
    """Opens the data set that the flags of this module describe.

    Args:
      expected: see `load`.

    Raises:
      UserError: see `load`.
    """
    return load(
        _DATASET.value,
        data_dir=_DATA_DIR.value,
        download=_DOWNLOAD.value,
        image_size=_IMAGE_SIZE.value,
        augment=_AUGMENT.value,
        padding=_PADDING.value,
        validation_examples=_VALIDATION_EXAMPLES.value,
        train_split=_TRAIN_SPLIT.value,
        test_split=_TEST_SPLIT.value,
        cache_dir=_CACHE_DIR.value,
        expected=expected,
    )


def from_flags_of_run(info: DatasetInfo, run_flags: Mapping[str, str]) -> Dataset:
    """Opens the data set of a run or an artifact, as the run did.

    Flags on the command line come first, then those of the run, then defaults. For
    another --dataset than the run's, only the size of the images is the run's.

    Args:
      info: the data set that was trained on.
      run_flags: the flags of the run, as text by name.

    Raises:
      UserError: the data set is not available, or has other classes or images.
    """
    names = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[__name__]]
    values = {name: run_flags.get(name) for name in names}
    is_given = not flags.FLAGS["dataset"].using_default_value
    if is_given and _DATASET.value not in (info.name, run_flags.get("dataset")):
        values = {"image_size": values["image_size"]}
    values["dataset"] = info.name
    for name, value in values.items():
        # The run may have been on another machine, with other directories.
        missing = name.endswith("_dir") and value and not Path(value).is_dir()
        if value is not None and not missing:
            # Leaves alone what the command line has set.
            flags.FLAGS.set_default(name, value)
    return from_flags(expected=info)
