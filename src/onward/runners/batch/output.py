"""Where the answers go: shards while the job runs, the output when it is whole.

A shard is durable before the journal says so. The output gets its name in one step, when everything is in it: a file
by a rename, a folder's parts one by one, with `_run.json` last.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import msgspec
import pyarrow as pa

from onward.act import crash
from onward.errors import UsageError
from onward.runners.batch.durable import publish, sync_folder, write_whole
from onward.runners.batch.errors import OutputFailed
from onward.runners.batch.forms import FORMS, Writer, write_arrow, write_parquet
from onward.runners.batch.lock import locked
from onward.runners.batch.records import Reject


class Assembling(Protocol):
    """An output while it is put together from its shards, in their order."""

    @property
    def added(self) -> int:
        """How many shards are in it."""
        ...

    def add(self, digest: str) -> None:
        """Add the next shard, which is durable."""
        ...

    def finish(self) -> str:
        """Give the output its name; returns its SHA-256."""
        ...

    def abandon(self) -> None:
        """Close what is open; the shards stay."""
        ...


class Output:
    """The places of one output: its own, and those of its journal, lock, rejects and run beside it."""

    def __init__(self, name: str) -> None:
        """Raises `UsageError` for a form that is not written."""
        self.path = Path(name)
        self.form = self.path.suffix.lower()
        self.is_folder = self.path.is_dir() or not self.form
        if not self.is_folder and self.form not in FORMS:
            expected = f"a folder, or a file ending in {', '.join(FORMS)}"
            raise UsageError("not a form that is written", where=name, expected=expected, found=self.form)
        beside = self.path / "_" if self.is_folder else self.path.with_name(f"{self.path.name}_")
        self.folder = self.path if self.is_folder else self.path.parent
        self._place_beside(beside)

    def _place_beside(self, beside: Path) -> None:
        self.work, self.lock, self.run, self.rejects = (
            beside.with_name(beside.name + word) for word in ("work", "lock", "run.json", "rejects.jsonl")
        )

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep other jobs away, which are told its name. Raises `OutputBusy`."""
        with writing(self.lock):
            self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with writing(self.lock):
                stack.enter_context(locked(self.lock, output=name))
            yield

    def assemble(self, schema: pa.Schema, run_id: str) -> Assembling:
        """The output of a run, to put together."""
        return Assembly(self, schema)

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.work / "journal.jsonl"

    @property
    def exists(self) -> bool:
        """Whether there is an output of this or another job."""
        return any(self.path.glob("part-*.parquet")) if self.is_folder else self.path.exists()

    def clear(self) -> None:
        """Remove all that a job has made here."""
        shutil.rmtree(self.work, ignore_errors=True)
        for path in (self.run, self.rejects, *(self.path.glob("part-*.parquet") if self.is_folder else (self.path,))):
            path.unlink(missing_ok=True)

    def write_shard(self, index: int, table: pa.Table, rejects: Sequence[Reject]) -> str:
        """Write a shard's files; they are durable afterwards. Returns the SHA-256 of the answers."""
        shard = self.shard(index)
        with writing(shard):
            made = shard.with_suffix(".making")
            (write_parquet if self.is_folder else write_arrow)(made, table)
            crash.point("batch.shard_written")
            publish(made, shard)
            self._write_rejects(index, rejects)
            with shard.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        crash.point("batch.shard_published")
        return digest

    def _write_rejects(self, index: int, rejects: Sequence[Reject]) -> None:
        with writing(self._shard_rejects(index)):
            if rejects:
                lines = b"".join(msgspec.json.encode(reject) + b"\n" for reject in rejects)
                write_whole(self._shard_rejects(index), lines)
            else:
                self._shard_rejects(index).unlink(missing_ok=True)

    def shard(self, index: int) -> Path:
        """A shard's answers; those of a folder may have moved to where they stay."""
        return self.work / f"part-{index:06d}{'.parquet' if self.is_folder else '.arrow'}"

    def _shard_rejects(self, index: int) -> Path:
        return self.work / f"part-{index:06d}.rejects.jsonl"

    def collect_rejects(self, shards: int) -> int:
        """Write the rejects of the first shards into one file, in order; no file where there are none."""
        found = [path for index in range(shards) if (path := self._shard_rejects(index)).is_file()]
        if not found:
            self.rejects.unlink(missing_ok=True)
            return 0
        made = self.work / "rejects.making"
        with writing(self.rejects), made.open("wb") as stream:
            for path in found:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, stream)
        publish(made, self.rejects)
        return len(found)


class Assembly:
    """The output while it is put together from its shards, in their order."""

    def __init__(self, output: Output, schema: pa.Schema) -> None:
        self._output = output
        self._added = 0
        self._digest = hashlib.sha256(b"onward-output-1")
        self._made = output.work / "output.making"
        self._writer: Writer | None = None
        if not output.is_folder:
            with writing(output.path):
                self._writer = FORMS[output.form](self._made, schema)

    @property
    def added(self) -> int:
        """How many shards are in it."""
        return self._added

    def add(self, digest: str) -> None:
        """Add the next shard, which is durable."""
        self._digest.update(bytes.fromhex(digest))
        if self._writer is not None:
            with writing(self._output.path), pa.memory_map(str(self._output.shard(self._added))) as stored:
                self._writer.write(pa.ipc.open_file(stored).read_all())
        self._added += 1

    def finish(self) -> str:
        """Give the output its name; returns its SHA-256: a file's own, a folder's over those of its parts."""
        output = self._output
        if self._writer is None:
            with writing(output.path):
                for index in range(self._added):
                    shard = output.shard(index)
                    if shard.exists():  # else it moved before a crash
                        shard.replace(output.path / shard.name)
                    crash.point("batch.assembled")
                sync_folder(output.path)
            crash.point("batch.output_published")
            return self._digest.hexdigest()
        with writing(output.path):
            self._writer.close()
            with self._made.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            crash.point("batch.assembled")
            publish(self._made, output.path)
        crash.point("batch.output_published")
        return digest

    def abandon(self) -> None:
        """Close what is open; the shards stay."""
        if self._writer is not None:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._made.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with writing a file of the job, as `OutputFailed`."""
    try:
        yield
    except OSError as error:  # Arrow raises these, too
        raise OutputFailed(error.strerror or str(error).splitlines()[0], where=str(path)) from error
    except pa.ArrowException as error:
        raise OutputFailed(str(error).splitlines()[0], where=str(path)) from error
