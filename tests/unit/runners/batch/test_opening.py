"""What people call inputs and outputs: files, folders, patterns; and what is said where that is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import NotFound, UsageError
from onward.package.manifest import Manifest
from onward.package.package import open_package
from onward.runners.batch.csv_files import CsvFiles
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.media import MediaFiles
from onward.runners.batch.opening import open_output, open_source
from onward.runners.batch.tables import TableFiles
from onward.runners.batch.texts import TextFiles
from tests.unit.runners.batch.jobs import field, some_rows, write


@pytest.fixture
def manifest(package: Path) -> Manifest:
    return open_package(package).manifest


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "tsv", "jsonl", "JSONL"])
def test_a_file_is_opened_by_its_suffix(tmp_path: Path, manifest: Manifest, suffix: str) -> None:
    kind = TableFiles if suffix in ("parquet", "arrow") else CsvFiles if suffix in ("csv", "tsv") else TextFiles
    file = write(tmp_path / f"a.{suffix.lower()}", some_rows(3))
    file = file.rename(tmp_path / f"b.{suffix}")
    assert isinstance(open_source(str(file), manifest, {}), kind)


def test_a_folder_of_what_the_package_takes_is_a_row_a_file(tmp_path: Path, manifest: Manifest) -> None:
    from dataclasses import replace

    seeing = replace(manifest, inputs=(field("picture", "BYTES", content="image"),))
    (tmp_path / "a.JPG").write_bytes(b"x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.png").write_bytes(b"x")
    assert isinstance(open_source(str(tmp_path), seeing, {}), MediaFiles)
    (tmp_path / "notes.csv").write_text("a\n")
    with pytest.raises(SourceUnreadable, match="several kinds"):
        open_source(str(tmp_path), seeing, {})


def test_a_text_file_alone_is_lines_and_a_folder_of_them_is_texts(tmp_path: Path, manifest: Manifest) -> None:
    from dataclasses import replace

    reading = replace(manifest, inputs=(field("note", "BYTES", content="text"),))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert isinstance(open_source(str(tmp_path / "a.txt"), reading, {}), TextFiles)
    assert isinstance(open_source(str(tmp_path), reading, {}), MediaFiles)


@pytest.mark.parametrize("name", ["none.csv", "none/*.csv", "empty", "none"])
def test_what_is_not_there_is_said(tmp_path: Path, manifest: Manifest, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        open_source(str(tmp_path / name), manifest, {})


def test_what_is_not_read_is_said(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(SourceUnreadable, match=r"xlsx"):
        open_source(str(tmp_path / "a.xlsx"), manifest, {})
    with pytest.raises(UsageError, match="--query"):
        open_source(str(tmp_path / "a.csv"), manifest, {}, query="select 1 order by 1")


def test_an_output_is_a_file_of_a_known_form_or_a_folder(tmp_path: Path) -> None:
    assert open_output(str(tmp_path / "new"), "in.csv").is_folder
    assert not open_output(str(tmp_path / "a.CSV"), "in.csv").is_folder
    with pytest.raises(UsageError, match=r"xlsx"):
        open_output(str(tmp_path / "a.xlsx"), "in.csv")


def test_an_output_is_never_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "a.csv").write_text("a\n")
    (tmp_path / "same.csv").symlink_to("days/a.csv")
    for source, output in (
        ("days/a.csv", f"{tmp_path}/days/a.csv"), ("days/a.csv", "same.csv"), ("days/*.csv", "days/a.csv"),
        ("days", "days"), ("sqlite:///x.csv?table=t", "x.csv"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="the output is the input"):
            open_output(output, source)
    open_output("days/b.csv", "days/a.csv")


def test_nothing_is_no_name(manifest: Manifest) -> None:
    for opened in (lambda: open_source("", manifest, {}), lambda: open_output("", "in.csv")):
        with pytest.raises(UsageError, match="no name"):
            opened()
