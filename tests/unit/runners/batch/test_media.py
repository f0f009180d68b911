"""Folders of images, sound or texts: one row a file, and a file that cannot be read is a reject."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from onward.runners.batch.media import CONTENT, FILE, MediaFiles


def files(folder: Path, **contents: bytes) -> list[Path]:
    paths = []
    for name, content in contents.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def test_bytes_are_the_value_and_the_path_below_the_folder_is_the_name(tmp_path: Path) -> None:
    source = MediaFiles(files(tmp_path, a=b"\0\1", b__c=b""), tmp_path, text=False, limit_bytes=10)
    assert source.rows == 2 and source.schema.field(CONTENT).type == pa.binary()
    (chunk,) = source.chunks([FILE, CONTENT], 10)
    assert chunk.table.to_pylist() == [{FILE: "a.txt", CONTENT: b"\0\1"}, {FILE: "b/c.txt", CONTENT: b""}]


def test_texts_are_text_and_what_is_not_utf8_stays_bytes(tmp_path: Path) -> None:
    source = MediaFiles(files(tmp_path, a="ä\n".encode(), b=b"\xff"), tmp_path, text=True, limit_bytes=10)
    (chunk,) = source.chunks([CONTENT], 10)
    assert chunk.table.to_pydict() == {CONTENT: ["ä", None]} and chunk.raw == {1: {CONTENT: b"\xff"}}


def test_a_file_that_is_too_large_gone_or_a_folder_is_a_reject_with_its_name(tmp_path: Path) -> None:
    paths = files(tmp_path, a=b"fine", b=b"x" * 11, c=b"gone", d=b"fine")
    paths[2].unlink()
    paths.append(tmp_path / "e.txt")
    paths[-1].mkdir()
    source = MediaFiles(paths, tmp_path, text=False, limit_bytes=10)
    (chunk,) = source.chunks([FILE, CONTENT], 10)
    assert list(chunk.rows) == [0, 3]
    assert [(one.row, one.code, one.column) for one in chunk.broken] == [
        (1, "TOO_LARGE", FILE), (2, "UNREADABLE_FILE", FILE), (4, "UNREADABLE_FILE", FILE),
    ]  # fmt: skip
    assert all(name in one.reason for name, one in zip(("b.txt", "c.txt", "e.txt"), chunk.broken, strict=True))


def test_files_are_not_opened_for_their_names_alone(tmp_path: Path) -> None:
    paths = files(tmp_path, a=b"x")
    paths[0].unlink()
    (chunk,) = MediaFiles(paths, tmp_path, text=False, limit_bytes=10).chunks([FILE], 10)
    assert chunk.table.to_pylist() == [{FILE: "a.txt"}]


def test_chunks_begin_anywhere(tmp_path: Path) -> None:
    paths = files(tmp_path, **{f"f{at}": b"x" for at in range(7)})
    source = MediaFiles(paths, tmp_path, text=False, limit_bytes=10)
    assert [list(chunk.rows) for chunk in source.chunks([FILE], 2, start=4)] == [[4, 5], [6]]
