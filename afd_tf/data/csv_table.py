"""A table of images: a CSV file with the columns image, label and perhaps split."""

import csv
import io
import os

from afd_tf.base.console import one_line
from afd_tf.base.errors import UserError, nearest
from afd_tf.data import foreign_files
from afd_tf.data.folder_layout import SPLIT_NAMES, ListedFile, Listing

_DELIMITERS = (",", ";", "\t")
_COLUMNS = ("image", "label", "split")


def list_csv(path: str) -> Listing:
    """Lists the images of a table.

    Its first line names the columns, in any order and case; others than image, label
    and split are left out. Paths of images are relative to the table. Classes are the
    sorted labels, by value where all are whole numbers. Where there is no test image,
    validation images are the test split.

    Args:
      path: the table, absolute: UTF-8, separated by commas, semicolons or tabs.

    Raises:
      UserError: there is no such file, or it is no such table.
    """
    name = one_line(path)
    rows = _read_rows(path, name)
    images: dict[str, tuple[str, str | None]] = {}
    for line, row in rows:
        image, label = row.get("image", "").strip(), row.get("label", "").strip()
        if not image or not label:
            missing = "label" if image else "image"
            raise UserError(f"{name}, line {line}: the column {missing!r} is empty.")
        given = row.get("split", "").strip()
        split = SPLIT_NAMES.get(given.lower())
        if given and split is None:
            raise UserError(
                f"{name}, line {line}: unknown split {given!r}."
                f"{nearest(given.lower(), SPLIT_NAMES)} Known: "
                f"{', '.join(SPLIT_NAMES)}."
            )
        relative = os.path.normpath(image)
        before = images.setdefault(relative, (label, split))
        if before != (label, split):
            raise UserError(
                f"{name}, line {line}: {one_line(image)} is there a second time, "
                f"with another label or split: leave one of the lines."
            )
    splits = {split for _, split in images.values()}
    if None in splits and len(splits) > 1:
        bare = next(image for image, (_, split) in images.items() if split is None)
        raise UserError(
            f"{name}: {one_line(bare)} has no split, while others have one: fill the "
            f"column 'split', or remove it."
        )
    if splits and None not in splits and "train" not in splits:
        raise UserError(f"{name} has no image of the split 'train'.")
    if "validation" in splits and "test" not in splits:
        images = {
            image: (label, "test" if split == "validation" else split)
            for image, (label, split) in images.items()
        }
    # Images of other splits alone do not make a class.
    classes = {label for label, split in images.values() if split in (None, "train")}
    unknown = {label for label, _ in images.values()} - classes
    if unknown:
        raise UserError(
            f"{name} has the label {min(unknown)!r}, which the training images lack: "
            f"add training images of it, or remove its lines."
        )
    if len(classes) < 2:
        raise UserError(f"{name} must have at least two labels; it has {len(classes)}.")
    whole = all(label.lstrip("-").isdecimal() for label in classes)
    ordered = sorted(
        classes, key=(lambda label: (int(label), label)) if whole else None
    )
    labels = {label: index for index, label in enumerate(ordered)}
    files = [
        ListedFile(image, labels[label], split)
        for image, (label, split) in sorted(
            images.items(), key=lambda item: (labels[item[1][0]], item[0])
        )
    ]
    class_names = tuple(map(one_line, ordered))
    return Listing(f"csv:{path}", os.path.dirname(path), class_names, files, [])


def _read_rows(path: str, name: str) -> list[tuple[int, dict[str, str]]]:
    """Returns line number and cells by column of each row."""
    try:
        # Names of files that are no UTF-8 can stand in it as they are.
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        reason = foreign_files.describe_error(error, path)
        raise UserError(f"{name} {one_line(reason)}") from error
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        for column in ("image", "label"):
            if column not in header:
                raise UserError(
                    f"the first line of {name} has no column {column!r}; it has "
                    f"{one_line(', '.join(header)) or 'nothing'}. Expected: "
                    f"image,label or image,label,split."
                )
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                named = zip(header, cells, strict=False)
                row = {key: cell for key, cell in named if key in _COLUMNS}
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: no CSV ({error}).") from error
    if not rows:
        raise UserError(f"{name} has no line below its first: add images.")
    return rows
