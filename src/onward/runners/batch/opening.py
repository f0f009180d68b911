"""From what a person calls the input and the output to those: files, folders, patterns, databases."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from onward.errors import NotFound, UsageError
from onward.package.manifest import Manifest
from onward.runners.batch.csv_files import CsvFiles
from onward.runners.batch.databases import Database, is_database, shown
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.media import SUFFIXES, MediaFiles
from onward.runners.batch.output import Output
from onward.runners.batch.source import Source
from onward.runners.batch.tables import TableFiles
from onward.runners.batch.texts import TextFiles
from onward.types import Field

_TABLES = frozenset({".parquet", ".pq", ".arrow", ".feather"})
_CSV = frozenset({".csv", ".tsv"})
_TEXTS = frozenset({".jsonl", ".txt"})


def open_source(
    name: str, manifest: Manifest, columns: Mapping[str, str], *, query: str = "", limit: int | None = None
) -> Source:
    """The source of that name. `columns` says which column of it each input is read from, where not its own.

    Raises `NotFound`, `SourceUnreadable` and, of databases, `DatabaseUnavailable`, `UsageError`, `MissingExtra`.
    """
    fields = {columns.get(field.name, field.name): field for field in manifest.inputs}
    if is_database(name):
        from onward.runners.batch.database_rows import DatabaseRows

        return DatabaseRows(name, query, fields, limit)
    if not name:
        raise UsageError("the input has no name", where="IN")
    if query:
        raise UsageError(
            "only a database has queries", where="--query", expected="IN as sqlite:///FILE or postgresql://…"
        )
    paths, root = _files(name)
    kinds = {path.suffix.lower() for path in paths}
    media = _media(manifest, paths, is_folder=Path(name).is_dir())
    if media:
        return MediaFiles(paths, root, text=media == "text", limit_bytes=manifest.limits.body_bytes)
    if len(kinds) > 1 and not (kinds <= {".parquet", ".pq"} or kinds <= {".arrow", ".feather"}):
        raise SourceUnreadable(
            "files of several kinds", where=name, expected="one kind", found=", ".join(sorted(kinds))
        )
    kind = kinds.pop()
    if kind in _TABLES:
        return TableFiles(paths, root)
    if kind in _CSV:
        return CsvFiles(paths, root, fields)
    if kind in _TEXTS:
        return TextFiles(paths, root, fields)
    raise SourceUnreadable(
        "not a kind of file that is read", where=name, expected=_expected(), found=kind or "no suffix"
    )


def open_output(name: str, source: str) -> Output:
    """The output of that name, which is not the source. Raises `UsageError`, `MissingExtra`."""
    if not name:
        raise UsageError("the output has no name", where="OUT")
    if not is_database(name):
        _check_apart(name, source)
        return Output(name)
    from onward.runners.batch.database_table import DatabaseTable

    output = DatabaseTable(name)
    if is_database(source) and output.database.same_table(Database.parse(source)):
        raise UsageError("input and output are the same table", where=shown(name))
    return output


def _check_apart(name: str, source: str) -> None:
    """An output is never one of the files that it is made from: `--restart` would remove those."""
    made = Path(name).resolve()
    if is_database(source):
        same = source.startswith("sqlite") and Database.parse(source).file.resolve() == made
    else:
        found = glob.glob(source, recursive=True) if glob.has_magic(source) else [source]  # noqa: PTH207
        same = any(Path(one).resolve() == made for one in found)
    if same:
        raise UsageError("the output is the input", where=name, expected="another name for OUT")


def _files(name: str) -> tuple[Sequence[Path], Path]:
    """The files in order, and the folder that their names are relative to."""
    path = Path(name)
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() and not _is_hidden(one.relative_to(path)))
        if not found:
            raise NotFound("the folder has no files", where=name)
        return found, path
    if path.is_file():
        return [path], path.parent
    if glob.has_magic(name):
        # A pattern may begin anywhere, which `Path.glob` does not take.
        found = sorted(Path(one) for one in glob.glob(name, recursive=True) if Path(one).is_file())  # noqa: PTH207
        if found:
            plain = list(path.parts[:-1])
            while any(glob.has_magic(part) for part in plain):
                plain.pop()
            return found, Path(*plain)
    raise NotFound("no such input", where=name, expected=_expected())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _media(manifest: Manifest, paths: Sequence[Path], *, is_folder: bool) -> str:
    """Which content the files are, where each of them is one value; "" where they hold rows."""
    suffixes = {path.suffix.lower() for path in paths}
    for content in ("image", "audio", "text"):
        if any(_takes(field, content) for field in manifest.inputs) and suffixes <= SUFFIXES[content]:
            return content if content != "text" or is_folder else ""
    return ""


def _takes(field: Field, content: str) -> bool:
    return field.content == content or (content == "text" and field.content == "chat")


def _expected() -> str:
    return "Parquet, Arrow, CSV, JSONL, text lines, or a folder of images, sound or texts"
