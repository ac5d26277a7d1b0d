"""The files, classes and splits of a folder of images, before any file is read."""

import os
import stat
from typing import NamedTuple

from afd_tf.base.console import one_line, say
from afd_tf.base.errors import UserError
from afd_tf.data import foreign_files, image_files
from afd_tf.data.names import comparable, some

# The names that people give to the folder of a split, in any case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

# What Windows, macOS and network storage put beside images.
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin")


class ListedFile(NamedTuple):
    """A file that should be an image.

    Attributes:
      path: relative to the data set's folder.
      label: the class.
      split: "train", "validation" or "test"; None where the data set has no splits.
    """

    path: str
    label: int
    split: str | None


class Listing(NamedTuple):
    """The files of a data set.

    Attributes:
      name: the data set's full name.
      root: the folder that paths are relative to.
      class_names: one printable name per label.
      files: all files, in the order of the data set.
      problems: path and description of each entry that cannot be used.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    files: list[ListedFile]
    problems: list[tuple[str, str]]


def list_folder(path: str) -> Listing:
    """Lists `PATH/<class>/...`, or `PATH/train/<class>/...` with the other splits.

    A class is a folder; images may be in folders below it, and be symbolic links.
    Hidden files are left out. Without a test folder, a validation folder is the test
    split.

    Args:
      path: the folder, absolute.

    Raises:
      UserError: the folder has another layout.
    """
    if os.path.isfile(path):
        raise UserError(
            f"{one_line(path)} is a file, not a folder: give the folder that holds "
            f"the class folders, or --dataset=csv:PATH for a table of images."
        )
    if not os.path.isdir(path):
        raise UserError(
            f"there is no directory {one_line(path)}: give an existing one as "
            f"--dataset=folder:PATH."
        )
    problems: list[tuple[str, str]] = []
    folders = _subfolders(path, "", problems)
    splits = _split_folders(path, folders)
    classes = _subfolders(path, splits["train"], problems) if splits else folders
    where = one_line(os.path.join(path, splits["train"]) if splits else path)
    if len(classes) < 2:
        raise UserError(
            f"{where} must hold one folder per class, at least two; it holds "
            f"{len(classes)}."
        )
    labels: dict[str, int] = {}
    for label, name in enumerate(classes):
        other = labels.setdefault(comparable(name), label)
        if other != label:
            raise UserError(
                f"the class folders {classes[other]!r} and {name!r} in {where} have "
                f"names that look the same: give one of them another name, or put "
                f"their images together."
            )
    files: list[ListedFile] = []
    for split, folder in splits.items() if splits else [(None, "")]:
        for entry in _subfolders(path, folder, problems) if folder else classes:
            label = labels.get(comparable(entry))
            class_folder = os.path.join(folder, entry)
            found = _files_below(path, class_folder, problems)
            if not found:
                problem = any(place.startswith(class_folder) for place, _ in problems)
                if split in (None, "train") and not problem:
                    empty = one_line(os.path.join(path, class_folder))
                    raise UserError(
                        f"the class folder {empty} is empty: put images into it, or "
                        f"remove it."
                    )
                continue
            if label is None:
                raise UserError(
                    f"{one_line(os.path.join(path, folder))} holds the class "
                    f"{one_line(entry)!r}, which the training images lack: add "
                    f"training images of it, or remove it."
                )
            files += [ListedFile(name, label, split) for name in found]
        if not any(file.split == split for file in files) and not problems:
            raise UserError(
                f"{one_line(os.path.join(path, folder))} holds no images: expected "
                f"{folder}/<class>/*.png."
            )
    names = tuple(map(one_line, classes))
    # Dead links, seen from two sides, are one problem.
    return Listing(f"folder:{path}", path, names, files, list(dict.fromkeys(problems)))


def _split_folders(path: str, folders: list[str]) -> dict[str, str]:
    """Returns the folder of each split; none where `path` holds the classes itself."""
    found: dict[str, list[str]] = {}
    for name in folders:
        if split := SPLIT_NAMES.get(name.lower()):
            found.setdefault(split, []).append(name)
    if "train" not in found:
        others = [name for name in folders if name.lower() not in SPLIT_NAMES]
        if found and not others:
            raise UserError(
                f"{one_line(path)} has no folder 'train' beside "
                f"{', '.join(repr(n) for names in found.values() for n in names)}: "
                f"expected train/<class>/*.png and test/<class>/*.png, or one folder "
                f"for each class."
            )
        return {}
    # A class may be called "train"; it then holds images, and not folders of them.
    train = found["train"][0]
    if not any(_is_folder(entry) for entry in _visible(os.path.join(path, train))):
        return {}
    others = [name for name in folders if name.lower() not in SPLIT_NAMES]
    if others and len(found) == 1:
        raise UserError(
            f"{one_line(path)} holds {train!r}, with folders in it, beside "
            f"{some(others)}: is it a split or a class? Add a folder 'test', or give "
            f"'{train}' another name."
        )
    for names in found.values():
        if len(names) > 1:
            raise UserError(
                f"{one_line(path)} holds the folders {some(names)}, which all name "
                f"the same split: leave one of them there."
            )
    splits = {split: names[0] for split, names in found.items()}
    if unused := sorted(others):
        say(
            f"{one_line(path)}: not used, as they name no split: {some(unused)} "
            f"(splits are train, validation and test)."
        )
    if "validation" in splits and "test" not in splits:
        say(
            f"{one_line(path)} has no folder 'test': '{splits['validation']}' is the "
            f"test split."
        )
        splits["test"] = splits.pop("validation")
    order = ("train", "test", "validation")
    return {split: splits[split] for split in order if split in splits}


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _visible(path: str) -> list[os.DirEntry]:
    """Returns the entries of a folder without those that are ignored."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not _is_ignored(entry.name)]
    except OSError as error:
        reason = foreign_files.describe_error(error, path)
        raise UserError(f"{one_line(path)} {one_line(reason)}") from error


def _subfolders(root: str, folder: str, problems: list) -> list[str]:
    """Returns the names of the folders in a folder, sorted; adds links to nothing."""
    names, images = [], []
    for entry in _visible(os.path.join(root, folder)):
        relative = os.path.join(folder, entry.name)
        if _is_folder(entry):
            names.append(entry.name)
        elif entry.is_symlink() and (problem := _problem_of(root, relative)):
            problems.append((relative, problem))
        elif image_files.has_image_ending(entry.name):
            images.append(entry.name)
    if images and names:
        say(
            f"{one_line(os.path.join(root, folder))}: not used, as they are in no "
            f"class folder: {len(images)} images ({some(sorted(images))})."
        )
    return sorted(names)


def _problem_of(root: str, relative: str) -> str | None:
    """Returns what keeps an entry from being opened, or None."""
    path = os.path.join(root, relative)
    try:
        os.stat(path)
    except OSError as error:
        return foreign_files.describe_error(error, path)
    return None


def _files_below(root: str, folder: str, problems: list) -> list[str]:
    """Returns the relative paths of the files below a class folder, sorted.

    Each folder is visited once, so that links may lead back.
    """
    visited, parent = set(), root
    for part in folder.split(os.sep):
        visited.add(_identity(parent))
        parent = os.path.join(parent, part)
    found, pending = [], [folder]
    while pending:
        current = pending.pop()
        path = os.path.join(root, current)
        try:
            identity = _identity(path)
            if identity in visited:
                continue
            visited.add(identity)
            with os.scandir(path) as opened:
                entries = [entry for entry in opened if not _is_ignored(entry.name)]
        except OSError as error:
            problems.append((current, foreign_files.describe_error(error, path)))
            continue
        for entry in entries:
            relative = os.path.join(current, entry.name)
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                problem = foreign_files.describe_error(error, entry.path)
                problems.append((relative, problem))
                continue
            if stat.S_ISDIR(mode):
                pending.append(relative)
            elif stat.S_ISREG(mode):
                found.append(relative)
            else:
                problems.append(
                    (relative, "is neither a file nor a folder: remove it.")
                )
    return sorted(found)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
