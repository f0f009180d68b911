"""Reads a PyTorch state dict without PyTorch. Run as a script in a child process of its own, never imported.

A .pth file is a pickle, and a pickle is a program. Here that program may name nothing but the classes on the list
below, each of which stands for a small NumPy rebuilder; any other name ends the process with an error before anything
is called. The process has no network to ask for, little time, little memory and one file to write.

    python -I torchpickle.py FILE OUT MEMORY_BYTES TIME_S

OUT becomes a zip of .npy members, one a tensor, written without pickle. Exit 3 with one line on stderr: refused.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

REFUSED = 3
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
PICKLE_LIMIT_BYTES = 64 << 20

#: Storage classes by name. BF16 is read as its upper FP32 half; NumPy has no such type.
STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Refused(Exception):
    """The file asks for something that a state dict does not need."""


class Sealed:
    """A stand-in that a pickle may refer to and not change: no __dict__, and no attribute can be set."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __setattr__(self, name: str, value: object) -> None:
        raise Refused(f"the pickle changes {self.name}")


class StorageType(Sealed):
    """Stands for `torch.FloatStorage` and its kind: a name, nothing that can be called."""

    __slots__ = ()


class Rebuilder(Sealed):
    """Stands for a function of PyTorch's that a pickle calls."""

    __slots__ = ("rebuild",)
    rebuild: Callable[..., Tensor]

    def __init__(self, rebuild: Callable[..., Tensor]) -> None:
        super().__init__(rebuild.__name__)
        object.__setattr__(self, "rebuild", rebuild)

    def __call__(self, *arguments: Any) -> Tensor:
        """Rebuild a tensor from what the pickle says about it."""
        return self.rebuild(*arguments)


class Storage:
    """One block of elements; its data arrive after the pickle in a legacy file."""

    __slots__ = ("count", "data", "kind")

    def __init__(self, kind: str, count: int) -> None:
        self.kind = kind
        self.count = count
        self.data: npt.NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        raise Refused("the pickle changes a storage")


class Tensor:
    """A view of a storage, made an array once the data are there."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state: object) -> None:
        raise Refused("the pickle changes a tensor")

    def array(self) -> npt.NDArray[Any]:
        """The elements as a contiguous array of the tensor's shape."""
        data = self.storage.data
        if data is None:
            raise Refused("a storage has no data")
        steps = tuple(step * data.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps, writeable=False)
        if self.storage.kind == "BFloat16Storage":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view).reshape(self.shape)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_grad_and_hooks: Any) -> Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`; what lies outside the storage is refused."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 32:
        raise Refused("a tensor is described in an unknown way")
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise Refused("a tensor has an impossible shape")
    elements, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        elements *= size
        last += (size - 1) * stride
    if elements and last >= storage.count:
        raise Refused("a tensor reaches beyond its storage")
    if elements > storage.count:
        raise Refused("a tensor repeats its storage")  # else a small file could claim any amount of memory
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def rebuild_parameter(data: Any, *_grad_and_hooks: Any) -> Tensor:
    """Stands for `torch._utils._rebuild_parameter`: a parameter is its tensor."""
    if not isinstance(data, Tensor):
        raise Refused("a parameter is not a tensor")
    return data


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): Rebuilder(rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Rebuilder(rebuild_parameter),
    **{("torch", name): StorageType(name) for name in STORAGES},
}


class StateDictUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in ALLOWED and storages, and refuses every other name."""

    def __init__(self, file: BinaryIO | io.BytesIO, storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name on the list."""
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise Refused(f"the pickle names {module}.{name}, which is not on the list") from None

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that `('storage', type, key, location, elements[, view])` names."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("the pickle has an unknown kind of reference")
        kind, key, count = pid[1], pid[2], pid[4]
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("the pickle has views of storages, from PyTorch before 0.4")
        if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("the pickle describes a storage in an unknown way")
        storage = self.storages.setdefault(key, Storage(kind.name, count))
        if (storage.kind, storage.count) != (kind.name, count):
            raise Refused(f"the pickle describes storage {key} in two ways")
        return storage


def load_zip(path: Path) -> Any:
    """The object in a file of PyTorch 1.6 or later: a zip of `data.pkl` and one member a storage."""
    with zipfile.ZipFile(path) as archive:
        roots = [name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Refused("the zip has no data.pkl in its folder: it is no file of torch.save")
        root = roots[0]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Refused("the file is big-endian")
        if archive.getinfo(f"{root}data.pkl").file_size > PICKLE_LIMIT_BYTES:
            raise Refused("data.pkl is larger than any state dict needs")
        storages: dict[str, Storage] = {}
        loaded = StateDictUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storages).load()
        for key, storage in storages.items():
            info = archive.getinfo(f"{root}data/{key}")
            size = storage.count * STORAGES[storage.kind].itemsize
            if info.file_size != size:
                raise Refused(f"storage {key} has {info.file_size} bytes where {size} are announced")
            storage.data = np.frombuffer(archive.read(info), STORAGES[storage.kind])
    return loaded


def load_legacy(path: Path) -> Any:
    """The object in a file from before PyTorch 1.6: five pickles in a row, then the storages' bytes."""
    with path.open("rb") as file:
        if StateDictUnpickler(file, {}).load() != LEGACY_MAGIC:
            raise Refused("the file is neither a zip nor a legacy file of torch.save")
        if StateDictUnpickler(file, {}).load() != LEGACY_PROTOCOL:
            raise Refused("the file has an unknown protocol")
        system = StateDictUnpickler(file, {}).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("the file is not little-endian")
        storages: dict[str, Storage] = {}
        loaded = StateDictUnpickler(file, storages).load()
        keys = StateDictUnpickler(file, {}).load()
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise Refused("the list of storages does not match the tensors")
        left = path.stat().st_size - file.tell()
        for key in keys:
            storage = storages[key]
            kind = STORAGES[storage.kind]
            count = int.from_bytes(file.read(8), "little")
            left -= 8 + count * kind.itemsize
            if count != storage.count or left < 0:
                raise Refused(f"storage {key} is cut short or has another length than announced")
            storage.data = np.frombuffer(file.read(count * kind.itemsize), kind)
    return loaded


def tensors(loaded: Any) -> dict[str, Tensor]:
    """The tensors of a loaded object that is a state dict, or holds one as its `state_dict` or `model`."""
    for name in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
            break
    if not isinstance(loaded, dict) or not loaded:
        raise Refused("the file holds no state dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise Refused(f"entry {name!r} of the state dict is not a tensor")
    return loaded


def limit(memory_bytes: int, time_s: int) -> None:
    """Take away what the unpickling cannot need, where the platform has such limits."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (("RLIMIT_AS", memory_bytes), ("RLIMIT_CPU", time_s), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64)):
        kind = getattr(resource, name, None)
        if kind is not None:
            ceiling = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if ceiling < 0 else min(value, ceiling),) * 2)


def main(arguments: list[str]) -> int:
    """Read FILE under the limits and write OUT."""
    source, target = Path(arguments[0]), Path(arguments[1])
    limit(int(arguments[2]), int(arguments[3]))
    try:
        found = tensors(load_zip(source) if zipfile.is_zipfile(source) else load_legacy(source))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, value in found.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value.array(), allow_pickle=False)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except Exception as error:  # a malformed pickle may raise anything; all of it means the same to the parent
        sys.stderr.write(f"the file is malformed: {type(error).__name__}: {error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
