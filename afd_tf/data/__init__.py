"""The data sets: `load` opens one, `from_flags` the one that the flags describe.

Images are raw uint8 pixels 0..255 from here to the model, which normalizes them with
the mean and the variance in `DatasetInfo`.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from afd_tf.base.command_line import import_tensorflow
from afd_tf.base.paths import expanded
from afd_tf.base.run_flags import operational
from afd_tf.data import records
from afd_tf.data.cache import DEFAULT_GIGABYTES
from afd_tf.data.choices import (
    AUGMENTATIONS,
    LEAST_AREA,
    MAX_MAGNITUDE,
    PADDINGS,
    SAMPLINGS,
)
from afd_tf.data.dataset_info import DatasetInfo
from afd_tf.data.records import Record
from afd_tf.data.sources import canonical_name, is_tfds

if TYPE_CHECKING:
    from afd_tf.data.array_dataset import ArrayDataset
    from afd_tf.data.dataset import Dataset, load

__all__ = [
    "Dataset",
    "DatasetInfo",
    "canonical_name",
    "from_flags",
    "from_flags_of_run",
    "load",
    "records",
]

# What needs TensorFlow, which those who only run a file do without: name → module.
_AT_FIRST_USE = {
    "Dataset": "afd_tf.data.dataset",
    "load": "afd_tf.data.dataset",
}

_DATASET = flags.DEFINE_string(
    "dataset",
    "digits",
    "The data set: a tensorflow-datasets name (cifar100, mnist, cifar10_1/v4), "
    "folder:PATH (with PATH/<class>/*.jpg, or PATH/train/<class>/*.jpg and "
    "PATH/test/<class>/*.jpg), csv:PATH (a table with the columns image, label and "
    "perhaps split), or digits (small, needs no network).",
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
    "Augmentation of training images: none, cifar (pad by 4 pixels, crop, mirror), "
    "imagenet (random resized crop, mirror) or randaugment (as cifar up to 64 pixels, "
    "as imagenet above, and then random operations on colours and geometry). auto "
    "chooses none for grey images and digits, cifar for other images of up to 64 "
    "pixels, imagenet for larger ones.",
)
_PADDING = flags.DEFINE_enum(
    "padding",
    "reflect",
    PADDINGS,
    "Pixels around an image that --augment=cifar crops: its reflected edges, or zeros.",
)
_LEAST_AREA = flags.DEFINE_float(
    "least_area",
    LEAST_AREA,
    "Smallest part of an image's area that a random crop of --augment=imagenet has, "
    "e.g. 0.35 for few images and pretrained networks.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_RANDAUGMENT_LAYERS = flags.DEFINE_integer(
    "randaugment_layers",
    2,
    "Number of operations on each image in --augment=randaugment.",
    lower_bound=1,
)
_RANDAUGMENT_MAGNITUDE = flags.DEFINE_integer(
    "randaugment_magnitude",
    9,
    "Strength of the operations in --augment=randaugment.",
    lower_bound=0,
    upper_bound=MAX_MAGNITUDE,
)
_RANDOM_ERASING = flags.DEFINE_float(
    "random_erasing",
    0.0,
    "Probability with which a box of a training image is filled with noise, e.g. 0.25.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_MIXUP = flags.DEFINE_float(
    "mixup",
    0.0,
    "Blend each training image, and its label, with another one: alpha of the "
    "distribution Beta(alpha, alpha) of the proportion, e.g. 0.2; 0 switches it off. "
    "With --cutmix too, each batch takes one of them at random.",
    lower_bound=0.0,
)
_CUTMIX = flags.DEFINE_float(
    "cutmix",
    0.0,
    "Paste a box of another image into each training image, and mix their labels: "
    "alpha of the distribution Beta(alpha, alpha) of the area, e.g. 1; 0 switches it "
    "off.",
    lower_bound=0.0,
)
_SAMPLING = flags.DEFINE_enum(
    "sampling",
    "shuffled",
    SAMPLINGS,
    "Training images of an epoch: shuffled, which takes each image once, or balanced, "
    "which takes equally many of each class and repeats those of small classes.",
)
_VALIDATION_EXAMPLES = flags.DEFINE_integer(
    "validation_examples",
    0,
    "Number of training images to hold out for validation: each class in proportion, "
    "and the same images for every --seed.",
    lower_bound=0,
)
_TEST_FRACTION = flags.DEFINE_float(
    "test_fraction",
    0.2,
    "Part of the images that is held out for the test, where a folder or table has no "
    "test images. An image's side follows from a hash of its content.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_VALIDATION_FRACTION = flags.DEFINE_float(
    "validation_fraction",
    0.0,
    "Part of the images that is held out for validation; in a folder or table an "
    "image's side follows from a hash of its content.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_SKIP_BAD_IMAGES = operational(
    flags.DEFINE_boolean(
        "skip_bad_images",
        False,
        "Go on without the files of a folder or table that cannot be used.",
    )
)
_CHANGED_DATA = operational(
    flags.DEFINE_enum(
        "changed_data",
        "refuse",
        ["refuse", "recorded"],
        "Behaviour of a run that goes on where images were added: refuse, or go on "
        "with the recorded images, those that it began with.",
    )
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
_CACHE_GIGABYTES = operational(
    flags.DEFINE_float(
        "cache_gigabytes",
        DEFAULT_GIGABYTES,
        "Bound of the size of --cache_dir in 10^9 bytes: the files that were not used "
        "for longest are removed, but none that the run uses.",
        lower_bound=0.0,
    )
)
_MEMORY_GIBIBYTES = operational(
    flags.DEFINE_float(
        "memory_gibibytes",
        2.0,
        "Size up to which the encoded images of a data set are kept in memory, in "
        "2^30 bytes; those of a larger one are read from disk in every epoch.",
        lower_bound=0.0,
    )
)


def __getattr__(name: str) -> Any:
    """Returns a name of `_AT_FIRST_USE`, importing its module."""
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_tensorflow()
    return getattr(importlib.import_module(_AT_FIRST_USE[name]), name)


def from_flags(
    *,
    expected: DatasetInfo | None = None,
    recorded: Record | None = None,
    changed_data: str | None = None,
) -> "Dataset":
    """Opens the data set that the flags of this module describe.

    Args:
      expected: see `load`.
      recorded: see `load`.
      changed_data: see `load`; None takes --changed_data.

    Raises:
      UserError: see `load`.
    """
    # By the module, as it is imported at its first use.
    return sys.modules[__name__].load(
        _DATASET.value,
        augment=_AUGMENT.value,
        padding=_PADDING.value,
        least_area=_LEAST_AREA.value,
        randaugment_layers=_RANDAUGMENT_LAYERS.value,
        randaugment_magnitude=_RANDAUGMENT_MAGNITUDE.value,
        random_erasing=_RANDOM_ERASING.value,
        mixup=_MIXUP.value,
        cutmix=_CUTMIX.value,
        sampling=_SAMPLING.value,
        validation_examples=_VALIDATION_EXAMPLES.value,
        memory_gibibytes=_MEMORY_GIBIBYTES.value,
        expected=expected,
        recorded=recorded,
        changed_data=changed_data or _CHANGED_DATA.value,
        **opening_from_flags(),
    )


def opening_from_flags() -> dict[str, Any]:
    """Returns the arguments of `load` that say which images there are, and where."""
    return {
        "data_dir": _expanded(_DATA_DIR.value),
        "download": _DOWNLOAD.value,
        "image_size": _IMAGE_SIZE.value,
        "train_split": _TRAIN_SPLIT.value,
        "test_split": _TEST_SPLIT.value,
        "cache_dir": _expanded(_CACHE_DIR.value),
        "cache_gigabytes": _CACHE_GIGABYTES.value,
        "test_fraction": _TEST_FRACTION.value,
        "validation_fraction": _VALIDATION_FRACTION.value,
        "skip_bad_images": _SKIP_BAD_IMAGES.value,
    }


def _expanded(path: str | None) -> str | None:
    return None if path is None else str(expanded(path))


def from_flags_of_run(
    info: DatasetInfo, run_flags: Mapping[str, str], recorded: Record | None = None
) -> "Dataset":
    """Opens the data set of a run or an artifact, as the run did.

    Flags on the command line come first, then those of the run, then defaults. For
    another --dataset than the run's, only the size of the images is the run's.

    Args:
      info: the data set that was trained on.
      run_flags: the flags of the run, as text by name.
      recorded: the record of the run's images; of those, the ones that are still there
        are used, each on its side.

    Raises:
      UserError: the data set is not available, or has other classes or images.
    """
    if not _adopt_flags_of_run(info, run_flags):
        recorded = None
    return from_flags(expected=info, recorded=recorded, changed_data="available")


def arrays_from_flags_of_run(
    info: DatasetInfo, run_flags: Mapping[str, str]
) -> "ArrayDataset | Dataset":
    """Opens the data set of an artifact to evaluate with; see `from_flags_of_run`.

    Only a data set of tensorflow-datasets needs TensorFlow: then it is a `Dataset`.

    Args:
      info: the data set that was trained on.
      run_flags: the flags of the run, as text by name.

    Raises:
      UserError: the data set is not available, or has other classes or images.
    """
    _adopt_flags_of_run(info, run_flags)
    if is_tfds(_DATASET.value):
        return from_flags(expected=info, changed_data="available")
    from afd_tf.data.array_dataset import open_arrays

    return open_arrays(_DATASET.value, expected=info, **opening_from_flags())


def _adopt_flags_of_run(info: DatasetInfo, run_flags: Mapping[str, str]) -> bool:
    """Makes the flags of a run the defaults, and returns whether it is its data set."""
    names = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[__name__]]
    values = {name: run_flags.get(name) for name in names}
    is_given = not flags.FLAGS["dataset"].using_default_value
    own = {canonical_name(name) for name in (info.name, run_flags.get("dataset", ""))}
    is_other = is_given and canonical_name(_DATASET.value) not in own
    if is_other:
        values = {"image_size": values["image_size"]}
    values["dataset"] = info.name
    for name, value in values.items():
        # The run may have been on another machine, with other directories.
        missing = (
            name.endswith("_dir") and value and not Path(value).expanduser().is_dir()
        )
        if value is not None and not missing:
            # Leaves alone what the command line has set.
            flags.FLAGS.set_default(name, value)
    return not is_other
