"""Packages made to do harm: each a function that writes one into a folder, with the codes that it may be refused with.

Where it matters, the lock is right: whoever writes a package writes its lock.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onward.package.digest import Lock, lock_of, lock_text, package_digest, package_files
from onward.testing import tiny_package

Build = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Case:
    """A package to be refused. `code` may be several."""

    name: str
    codes: tuple[str, ...]
    build: Build


CASES: list[Case] = []


def case(*codes: str) -> Callable[[Build], Build]:
    """Add a function that writes a package below the folder that it is given, and returns what to open."""

    def add(build: Build) -> Build:
        CASES.append(Case(build.__name__, codes, build))
        return build

    return add


def named(name: str, build: Build, *codes: str) -> None:
    """The same for one of a family."""
    CASES.append(Case(name, codes, build))


def locked(folder: Path) -> Path:
    """Write the lock that fits a folder."""
    (folder / "onward.lock").write_text(lock_text(lock_of(folder)))
    return folder


def tiny(place: Path, files: Mapping[str, bytes] | None = None, *, manifest: str | None = None) -> Path:
    """A whole package with some files replaced, and a lock that fits."""
    folder = tiny_package(place / "p", lock=False)
    for name, data in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if manifest is not None:
        (folder / "onward.toml").write_text(manifest)
    return locked(folder)


def zipped(place: Path, entries: Mapping[str, bytes], *, mode: int = stat.S_IFREG | 0o644,
           method: int = zipfile.ZIP_DEFLATED, left_out: Sequence[str] = ()) -> Path:  # fmt: skip
    """An archive of a package with further entries, which its lock lists; some of them may be left out."""
    folder = tiny_package(place / "p")
    files = {name: file.read_bytes() for name, file in package_files(folder).items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in (files | dict(entries)).items()}
    lock = lock_text(Lock(digest=package_digest(digests), files=digests))
    archive = place / "p.onward"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("onward.lock", lock)
        for name, data in (files | dict(entries)).items():
            if name in left_out:
                continue
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            entry.external_attr = (mode if name in entries else stat.S_IFREG | 0o644) << 16
            opened.writestr(entry, data)
    return archive


# --- archives

for _index, _path in enumerate(("../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:/evil", ".hidden", "a//b",
                                "*/_ORT_MEM_ADDR_/*", "x" * 600)):  # fmt: skip
    named(f"archive_path_{_index}", lambda place, path=_path: zipped(place, {path: b"x"}), "INVALID_PACKAGE")  # type: ignore[misc]
for _kind in ("IFLNK", "IFCHR", "IFBLK", "IFIFO", "IFSOCK", "IFDIR"):
    named(f"archive_{_kind}", lambda place, kind=_kind: zipped(
        place, {"odd": b"/etc/passwd"}, mode=getattr(stat, f"S_{kind}") | 0o777), "INVALID_PACKAGE")  # type: ignore[misc]  # fmt: skip


@case("INVALID_PACKAGE")
def archive_bomb(place: Path) -> Path:
    return zipped(place, {"zeros.bin": bytes(64 << 20)})


@case("INVALID_PACKAGE")
def archive_of_a_method_that_is_not_taken(place: Path) -> Path:
    return zipped(place, {"zeros.bin": bytes(1000)}, method=zipfile.ZIP_BZIP2)


@case("INVALID_PACKAGE")
def archive_of_too_many_files(place: Path) -> Path:
    return zipped(place, {f"f{number}": b"" for number in range(10_001)})


@case("INVALID_PACKAGE")
def archive_that_is_all_list(place: Path) -> Path:
    """Half a million entries of no file: `zipfile` would make an object of each."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 500_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, 0, 0)
    (place / "p.onward").write_bytes(b"PK\x03\x04" + bytes(26) + entry * count + end)
    return place / "p.onward"


def _patched(archive: Path, name: bytes, change: Callable[[bytearray, int], None]) -> Path:
    """Change the header of an entry in the list at the archive's end."""
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name:
        at = data.index(b"PK\x01\x02", at + 1)
    change(data, at)
    archive.write_bytes(data)
    return archive


@case("INVALID_PACKAGE")
def archive_whose_file_is_larger_than_it_says(place: Path) -> Path:
    def smaller(data: bytearray, at: int) -> None:
        data[at + 24 : at + 28] = struct.pack("<L", 1000)

    return _patched(zipped(place, {"zeros.bin": bytes(64 << 20)}), b"zeros.bin", smaller)


@case("INVALID_PACKAGE")
def archive_of_files_that_overlap(place: Path) -> Path:
    """One file holds the other, header and all; both are as the lock says. A bomb is made of a thousand of these."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        opened.writestr(zipfile.ZipInfo("two.bin"), b"two")
        two = opened.infolist()[0]
        size = opened.fp.tell() if opened.fp else 0
    outer = inner.getvalue()[:size]
    archive = zipped(place, {"one.bin": outer, "two.bin": b"two"}, method=zipfile.ZIP_STORED, left_out=("two.bin",))
    with zipfile.ZipFile(archive, "a") as opened:
        one = opened.getinfo("one.bin")
        two.header_offset = one.header_offset + 30 + len("one.bin")
        opened.filelist.append(two)
        opened.NameToInfo["two.bin"] = two
        opened._didModify = True  # type: ignore[attr-defined]
    with zipfile.ZipFile(archive) as opened:
        assert opened.read("two.bin") == b"two" and opened.read("one.bin") == outer
    return archive


@case("INVALID_PACKAGE")
def archive_with_a_file_twice(place: Path) -> Path:
    import warnings

    archive = zipped(place, {})
    with warnings.catch_warnings(), zipfile.ZipFile(archive, "a") as opened:
        warnings.simplefilter("ignore")
        opened.writestr("model.onnx", b"another")
    return archive


@case("INVALID_PACKAGE")
def archive_that_is_encrypted(place: Path) -> Path:
    def locked_up(data: bytearray, at: int) -> None:
        data[at + 8] |= 1

    return _patched(zipped(place, {"a.bin": b"x"}), b"a.bin", locked_up)


@case("INVALID_PACKAGE")
def archive_with_a_comment(place: Path) -> Path:
    archive = zipped(place, {})
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"PK\x05\x06" + bytes(18)
    return archive


@case("REFUSED_GRAPH")
def archive_in_an_archive(place: Path) -> Path:
    inner = zipped(place, {"zeros.bin": bytes(1 << 20)}).read_bytes()
    (place / "outer").mkdir()
    return zipped(place / "outer", {"model.onnx": inner})


@case("DIGEST_MISMATCH")
def archive_of_another_model(place: Path) -> Path:
    archive = zipped(place, {})
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        model = opened.read("model.onnx")
    folder = place / "p"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("onward.lock", (folder / "onward.lock").read_bytes())
        opened.writestr("onward.toml", (folder / "onward.toml").read_bytes())
        opened.writestr("examples.jsonl", (folder / "examples.jsonl").read_bytes())
        opened.writestr("model.onnx", model + b"\0")
    assert archive.read_bytes() != data
    return archive


@case("INVALID_PACKAGE")
def archive_whose_lock_is_a_bomb(place: Path) -> Path:
    with zipfile.ZipFile(place / "p.onward", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("onward.lock", b"#" * (64 << 20))
        opened.writestr("filler.bin", os.urandom(2 << 20))
    return place / "p.onward"


# --- folders


@case("INVALID_PACKAGE")
def folder_with_a_link_to_a_file(place: Path) -> Path:
    folder = tiny(place)
    (folder / "model.onnx").rename(place / "model.onnx")
    (folder / "model.onnx").symlink_to(place / "model.onnx")
    return folder


@case("INVALID_PACKAGE")
def folder_with_a_link_to_a_folder(place: Path) -> Path:
    folder = tiny(place)
    (folder / "root").symlink_to("/")
    return folder


@case("INVALID_PACKAGE")
def folder_with_a_socket(place: Path) -> Path:
    folder = tiny(place)
    before = Path.cwd()
    os.chdir(folder)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd")
    finally:
        os.chdir(before)
    return folder


for _file in ("onward.lock", "onward.toml", "model.onnx", "examples.jsonl"):

    def _pipe(place: Path, file: str = _file) -> Path:
        folder = tiny(place)
        (folder / file).unlink()
        os.mkfifo(folder / file)
        return folder

    named(f"folder_whose_{_file}_is_a_pipe", _pipe, "INVALID_PACKAGE", "INVALID_MANIFEST")


@case("INVALID_PACKAGE")
def folder_with_a_device(place: Path) -> Path:
    folder = tiny(place)
    try:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except OSError:  # only root may, and not everywhere
        os.mkfifo(folder / "zero")
    return folder


@case("INVALID_PACKAGE")
def folder_of_too_many_folders(place: Path) -> Path:
    folder = tiny(place)
    for number in range(11_001):
        (folder / f"d{number}").mkdir()
    return folder


@case("DIGEST_MISMATCH")
def folder_with_a_lock_that_was_changed(place: Path) -> Path:
    folder = tiny(place)
    text = (folder / "onward.lock").read_text()
    (folder / "onward.lock").write_text(text.replace('digest = "', 'digest = "0'))
    return folder


# --- locks and manifests

_BOMBS: dict[str, bytes] = {
    "dotted": b"a." * 400_000 + b"a = 1\n",
    "dotted_quoted": b'"a" . ' * 100_000 + b"a = 1\n",
    "dotted_header": b"[" + b"a." * 400_000 + b"a]\n",
    "arrays": b"a = " + b"[" * 400_000,
    "tables": b"a = " + b"{a=" * 200_000,
    "digits": b"a = " + b"9" * 900_000 + b"\n",
    "hexadecimal": b"format = 0x" + b"f" * 900_000 + b"\n",
    "date": b"a = 9999-99-99T99:99:99Z\n",
    "quotes": b"a = '''" * 100_000,
    "escapes": b'a = "' + b"\\" * 900_001,
    "zeros": bytes(900_000),
    "bytes": b"\xff" * 900_000,
    "long": b"#" * (8 << 20),
}
for _name, _data in _BOMBS.items():

    def _manifest_bomb(place: Path, data: bytes = _data) -> Path:
        return tiny(place, {"onward.toml": data})

    named(f"manifest_{_name}", _manifest_bomb, "INVALID_MANIFEST", "INVALID_PACKAGE")

    def _lock_bomb(place: Path, data: bytes = _data) -> Path:
        folder = tiny(place)
        (folder / "onward.lock").write_bytes(data)
        return folder

    named(f"lock_{_name}", _lock_bomb, "INVALID_PACKAGE")

_HEAD = 'format = 1\n[package]\nname = "p"\nversion = "1.0.0"\n'
_INPUT = '[[input]]\nname = "x"\ndatatype = "FP32"\nshape = [3]\n'
_OUTPUT = '[[output]]\nname = "y"\ndatatype = "FP32"\nshape = [3]\n'
_WRITTEN = {
    "name": _HEAD.replace('"p"', '"../p"') + _INPUT + _OUTPUT,
    "name_absolute": _HEAD.replace('"p"', '"/etc"') + _INPUT + _OUTPUT,
    "version": _HEAD.replace('"1.0.0"', '"../1"') + _INPUT + _OUTPUT,
    "version_long": _HEAD.replace('"1.0.0"', f'"{"9" * 5000}"') + _INPUT + _OUTPUT,
    "input_name": _HEAD + _INPUT.replace('"x"', '"x\\ny"') + _OUTPUT,
    "model_file": _HEAD + _INPUT + _OUTPUT + '[execute]\nfile = "../model.onnx"\n',
    "model_file_absolute": _HEAD + _INPUT + _OUTPUT + '[execute]\nfile = "/etc/passwd"\n',
    "model_file_memory": _HEAD + _INPUT + _OUTPUT + '[execute]\nfile = "*/_ORT_MEM_ADDR_/*"\n',
    "entry": _HEAD + _INPUT + _OUTPUT + '[execute]\nbackend = "python"\nentry = "../os:system"\n',
    "tokenizer": _HEAD + _INPUT + _OUTPUT
    + '[[prepare]]\nstep = "tokenize"\ninput = "x"\nfile = "../t.json"\noutputs = ["a"]\n',
    "labels": _HEAD + _INPUT + _OUTPUT + '[[generate]]\nstep = "labels"\nscores = "y"\nfile = "/etc/passwd"\n',
    "stage": _HEAD + _INPUT + _OUTPUT + '[[stage]]\nname = "s"\npackage = "../q"\nversion = "1.0.0"\n',
    "size": _HEAD + _INPUT.replace("[3]", "[1099511627776]") + _OUTPUT,
    "sizes": _HEAD + _INPUT.replace("[3]", "[65536, 65536]") + _OUTPUT,
    "dimensions": _HEAD + _INPUT.replace("[3]", f"[{'1, ' * 100}]") + _OUTPUT,
    "instances": _HEAD + _INPUT + _OUTPUT + "[execute]\ninstances = 1000000000\n",
    "threads": _HEAD + _INPUT + _OUTPUT + "[execute]\nthreads = 1000000000\n",
    "batch": _HEAD + _INPUT + _OUTPUT + "[batching]\nmax_batch_size = 1099511627776\n",
}  # fmt: skip
for _name, _text in _WRITTEN.items():
    named(f"manifest_{_name}", lambda place, text=_text: tiny(place, manifest=text), "INVALID_MANIFEST")  # type: ignore[misc]


def harmless(place: Path) -> Path:
    """A package that is none of these: the opener must open it, or the rest says nothing."""
    return tiny(place)


def built(place: Path, names: set[str]) -> list[tuple[Case, str]]:
    """The cases of these names, written."""
    made: list[tuple[Case, str]] = []
    for one in CASES:
        if one.name in names:
            folder = place / one.name
            folder.mkdir()
            made.append((one, str(one.build(folder))))
    return made
