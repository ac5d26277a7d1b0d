"""Images in files: a folder with a folder for each class, or a table of images."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afd_tf.base.console import one_line, say
from afd_tf.base.errors import UserError
from afd_tf.data import duplicates, image_files, records
from afd_tf.data.cache import Cache
from afd_tf.data.folder_layout import Listing
from afd_tf.data.folder_scan import report_problems, scan
from afd_tf.data.image_file import ImageFile
from afd_tf.data.names import comparable
from afd_tf.data.records import Placed, Record
from afd_tf.data.splits import choose_sides
from afd_tf.data.threads import map_in_threads

if TYPE_CHECKING:
    from afd_tf.data.encoded_files import EncodedFiles


class FolderSource:
    """Labelled images in files.

    All files are read once, before the training starts, and broken ones are found.
    Images without a split are divided by their content (see `splits`); the images are
    grey if all files are.

    Attributes:
      root: the folder that paths are relative to.
      white_level: the value of white in files of more than 8 bits, if there are some.
      record: the images and their sides, for the run directory (see `records`).
      skipped: the number of files that cannot be used.
      leakage: held-out images that are like training images: "copies", "look_alikes".

    Args:
      listing: the files; `list_folder` or `list_csv` make it.
      image_size: height and width in pixels to crop and resize to; None keeps the
        size, which all images must share.
      cache: keeps the facts about the files.
      test_fraction: the part of the images that is the test side, where the data set
        has no test split.
      validation_fraction: the part that is the validation side.
      skip_bad_images: goes on without files that cannot be used.
      white_level: that of the run's data set; None finds it in the files.
      recorded: the record of the run that this data set is for.
      changed_data: one of `records.CHANGED_DATA`.

    Raises:
      UserError: a file cannot be used, or there are too few images.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        image_size: int | None,
        cache: Cache,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.0,
        skip_bad_images: bool = False,
        white_level: float | None = None,
        recorded: Record | None = None,
        changed_data: str = "refuse",
    ):
        self.name = listing.name
        self.root = listing.root
        self.class_names = listing.class_names
        self._image_size = image_size
        self._check_class_names()
        paths = [file.path for file in listing.files]
        facts, problems = scan(self.root, paths, cache)
        problems = [*listing.problems, *problems]
        self.skipped = len(problems)
        report_problems(
            problems,
            # What became of other files than the run's is no obstacle to evaluate it.
            skip=skip_bad_images or (bool(recorded) and changed_data == "available"),
            name=self.name,
            root=self.root,
            cache=cache,
        )
        given = [
            (facts[file.path]._replace(label=file.label), file.split or "")
            for file in listing.files
            if file.path in facts
        ]
        splits = {file.split for file in listing.files}
        if "test" not in splits:
            # To be divided, here or in the run: each image once.
            once = duplicates.without_copies([image for image, _ in given], self.name)
            given = [(image, "") for image in once]
        if recorded is not None:
            placed = records.apply(
                recorded,
                given,
                self.class_names,
                changed_data=changed_data,
                name=one_line(self.name),
            )
        else:
            placed = self._divide(given, splits, test_fraction, validation_fraction)
        self._files: dict[str, list[ImageFile]] = {}
        for side in ("train", "test", "validation"):
            images = [image for image, other in placed if other == side]
            if images or side != "validation":
                self._files[side] = images
        self.counts = {side: len(images) for side, images in self._files.items()}
        self._check_counts()
        self.record = records.make(placed, self.class_names)
        self.leakage = duplicates.say_leakage(placed, name=self.name, cache=cache)
        images = [image for image, _ in placed]
        height, width = (
            (image_size, image_size)
            if image_size is not None
            else image_files.common_size(
                ((image.height, image.width) for image in images), one_line(self.name)
            )
        )
        self.image_shape = (height, width, max(image.channels for image in images))
        self.white_level = white_level or self._find_white_level(images)

    def files(self, split: str) -> Sequence[ImageFile]:
        """Returns the facts about the images of a split, in order."""
        return self._files[split]

    def encoded_source(self, cache: Cache) -> "EncodedFiles":
        """Returns the images as they are stored; `cache` takes converted files."""
        # Its decoder is TensorFlow's; `read` and `read_some` do without.
        from afd_tf.data.encoded_files import EncodedFiles

        return EncodedFiles(
            self.root,
            self._files,
            image_shape=self.image_shape,
            cache=cache,
            white_level=self.white_level,
        )

    def path(self, file: ImageFile) -> str:
        """Returns where a file is."""
        return os.path.join(self.root, file.path)

    def fingerprint(self, split: str) -> dict[str, Any]:
        """See `Source`; it depends on what files hold, not on where they are."""
        return {
            "image_size": self._image_size,
            "channels": self.image_shape[2],
            "white_level": self.white_level,
            "files": [[file.sha256, file.label] for file in self._files[split]],
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""
        return self.read_some(split, range(self.counts[split])), self.labels(split)

    def read_some(
        self, split: str, positions: Sequence[int], fraction: float = 1.0
    ) -> np.ndarray:
        """Decodes some images of a split, with Pillow.

        Args:
          split: the name of the split.
          positions: of the images, in the split.
          fraction: see `image_files.read_image`.

        Returns:
          uint8 [n, h, w, c], in the order of the positions.

        Raises:
          UserError: a file cannot be decoded, or has changed.
        """
        images = np.empty([len(positions), *self.image_shape], np.uint8)

        def read_one(index: int) -> None:
            file = self._files[split][positions[index]]
            image = image_files.read_image(
                self.path(file),
                channels=self.image_shape[2],
                image_size=self._image_size,
                fraction=fraction,
                white_level=self.white_level,
            )
            if image.shape != self.image_shape:
                raise UserError(
                    f"{one_line(self.path(file))} has changed while it was being "
                    f"read: start again."
                )
            images[index] = image

        for _ in map_in_threads(read_one, range(len(images))):
            pass
        return images

    def labels(self, split: str) -> np.ndarray:
        """See `Source`."""
        return np.array([file.label for file in self._files[split]], np.int32)

    def _check_class_names(self) -> None:
        seen: dict[str, int] = {}
        for label, name in enumerate(self.class_names):
            if seen.setdefault(comparable(name), label) != label:
                raise UserError(
                    f"{one_line(self.name)} has two classes called {name!r}: give "
                    f"one of them another name."
                )

    def _divide(
        self,
        given: list[Placed],
        splits: set[str | None],
        test_fraction: float,
        validation_fraction: float,
    ) -> list[Placed]:
        """Returns the images with sides, of which the data set may give `splits`."""
        if "validation" in splits and validation_fraction:
            raise UserError(
                f"{one_line(self.name)} has a validation split of its own: leave "
                f"--validation_fraction away."
            )
        open_images = [image for image, split in given if split in ("", "train")]
        missing = set(range(len(self.class_names))) - {i.label for i in open_images}
        if missing:
            raise UserError(
                f"{one_line(self.name)} has no training image of the class "
                f"{self.class_names[min(missing)]!r} left: add some, or remove it."
            )
        if "test" in splits:
            test_fraction = 0.0
        elif not 0 < test_fraction < 1:
            raise UserError(
                f"--test_fraction={test_fraction:g} leaves {one_line(self.name)} "
                f"without test images: give a number between 0 and 1."
            )
        if not (test_fraction or validation_fraction):
            return given
        unique = {image.sha256: image.label for image in open_images}
        sides = choose_sides(
            list(unique),
            list(unique.values()),
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            name=one_line(self.name),
        )
        by_hash = dict(zip(unique, sides, strict=True))
        placed = [
            (image, by_hash[image.sha256] if split in ("", "train") else split)
            for image, split in given
        ]
        counts = ", ".join(
            f"{sum(side == name for _, side in placed)} {name}"
            for name in dict.fromkeys(("train", *sorted(set(sides))))
        )
        say(f"{one_line(self.name)} is divided by the images' content: {counts}.")
        return placed

    def _check_counts(self) -> None:
        for side, count in self.counts.items():
            if not count:
                raise UserError(
                    f"{one_line(self.name)} holds no images of the split {side!r}: "
                    f"put some there."
                )

    def _find_white_level(self, images: Sequence[ImageFile]) -> float | None:
        """Returns the smallest usual level of the whole data set, and says it."""
        deep = [image for image in images if image.largest_value]
        if not deep or len({image.is_float for image in deep}) > 1:
            return None
        largest = max(image.largest_value for image in deep)
        level = image_files.smallest_white_level(largest, is_float=deep[0].is_float)
        say(
            f"{one_line(self.name)}: {len(deep)} images have more than 8 bits per "
            f"channel; their values 0..{level:g} become 0..255."
        )
        return level
