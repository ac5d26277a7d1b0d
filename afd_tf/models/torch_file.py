"""Tensors out of a PyTorch file in its old format, without PyTorch.

Such a file (`torch.save` before PyTorch 1.6, or with
`_use_new_zipfile_serialization=False`) is five pickles, one after the other: a magic
number, the version of the format, facts about the machine, the saved object, and the
keys of its storages; then the storages themselves, each as its number of elements,
int64, and its bytes.

A pickle is a program. This module runs those only that build dictionaries of tensors:
it knows no other functions, and so can call none.
"""

import collections
import io
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from afd_tf.base.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_ZIP = b"PK\x03\x04"

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *_: object) -> _Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor whose shape is no whole numbers")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor with more dimensions than strides")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


# All that a file may ask for.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler of tensors, and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name of PyTorch's."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns a storage, whose content comes behind the pickles."""
        kind, dtype, key, _, length, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError("it has something that is no tensor")
        if type(length) is not int or length < 0 or not isinstance(key, str):
            raise pickle.UnpicklingError("a storage whose length is no whole number")
        return _Storage(dtype, key, length)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors, such as a network's `state_dict`.

    Args:
      path: a `.pth` file in PyTorch's old format.

    Returns:
      the tensors by name, in the file's order.

    Raises:
      UserError: the file is missing, of another format, incomplete, or contains
        anything but tensors; nothing in it has been run then.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"the weights {path} cannot be read: {error.strerror}."
        ) from error
    if content.startswith(_ZIP):
        raise UserError(
            f"{path} is in PyTorch's newer format, a zip archive; expected is the old "
            "one: write it with torch.save(tensors, path, "
            "_use_new_zipfile_serialization=False)."
        )
    try:
        return _read(io.BytesIO(content), len(content))
    except Exception as error:  # Wrong bytes make an unpickler raise anything.
        raise UserError(
            f"{path} is refused: expected are tensors by name in PyTorch's old format, "
            f"as torch.save(network.state_dict(), path, "
            f"_use_new_zipfile_serialization=False) writes them, and nothing else "
            f"({type(error).__name__}: {error})."
        ) from error


def _read(file: io.BytesIO, size: int) -> dict[str, np.ndarray]:
    if _load(file) != _MAGIC or _load(file) != _VERSION:
        raise ValueError("it does not begin as a PyTorch file")
    if not _load(file)["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    tensors, keys = _load(file), _load(file)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(each, _Tensor)
        for name, each in tensors.items()
    ):
        raise ValueError("it is no dictionary of tensors by name")
    kinds = {each.storage.key: each.storage for each in tensors.values()}
    values = {}
    for key in keys:
        storage = kinds[key]
        length = int.from_bytes(file.read(8), "little")
        bytes_left = size - file.tell()
        if length != storage.length or length * storage.dtype.itemsize > bytes_left:
            raise ValueError(
                f"{bytes_left} bytes are left for {storage.length} numbers"
            )
        raw = file.read(length * storage.dtype.itemsize)
        values[key] = np.frombuffer(raw, storage.dtype)
    return {name: _array(each, values) for name, each in tensors.items()}


def _load(file: io.BytesIO) -> Any:
    return _Unpickler(file, encoding="utf-8").load()


def _array(tensor: _Tensor, values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the numbers of a tensor, which may be a view of its storage."""
    storage = values[tensor.storage.key]
    steps = zip(tensor.shape, tensor.strides, strict=True)
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * stride for length, stride in steps)
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError(f"a tensor of {tensor.shape} in {len(storage)} numbers")
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :],
        tensor.shape,
        [stride * storage.itemsize for stride in tensor.strides],
        writeable=False,
    )
    return view.copy()
