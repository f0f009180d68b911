"""The journal of a job: what is done stays done. One JSON line each, durable before anything counts on it.

A line that a crash cut off was never counted on, and is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from onward.act import crash
from onward.runners.batch.durable import sync_folder
from onward.runners.batch.errors import JobChanged
from onward.runners.batch.output import writing
from onward.runners.batch.records import Plan, ShardDone

FORMAT = 1


class Journal:
    """Opened for one job: `head` is what it began with (None: it has not begun), `shards` what is durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: Mapping[str, Any] | None = None
        self.shards: dict[int, ShardDone] = {}
        self.input_digest = ""
        with writing(path):
            good = self._read()
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._file, good)
            os.lseek(self._file, 0, os.SEEK_END)

    @property
    def plan(self) -> Plan:
        """How the work is cut."""
        assert self.head is not None
        return msgspec.convert(self.head["plan"], Plan)

    def begin(self, head: Mapping[str, Any]) -> None:
        """Write down what the job is."""
        self._append({"kind": "job", "format": FORMAT, **head})
        with writing(self.path):
            sync_folder(self.path.parent)
        self.head = head

    def commit(self, shard: ShardDone) -> None:
        """From here on the shard is done; its files are durable already."""
        self._append({"kind": "shard", **msgspec.to_builtins(shard)})
        self.shards[shard.index] = shard

    def note_digest(self, digest: str) -> None:
        """Write down the input's digest, once it is known."""
        self._append({"kind": "input", "digest": digest})
        self.input_digest = digest

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        half = len(line) // 2
        with writing(self.path):
            self._write(line[:half])
            crash.point("batch.journal_torn")
            self._write(line[half:])
            os.fsync(self._file)

    def _write(self, data: bytes) -> None:
        while data:  # a disk that is nearly full takes a part
            data = data[os.write(self._file, data) :]

    def _read(self) -> int:
        """Read what is there; returns how many bytes of it are whole lines."""
        if not self.path.is_file():
            return 0
        data = self.path.read_bytes()
        good = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                entry = msgspec.json.decode(line)
            except msgspec.DecodeError:
                break
            self._take(entry)
            good += len(line)
        return good

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry.pop("kind", "")
        if kind == "job":
            if entry.pop("format", None) != FORMAT:
                raise JobChanged("this job was begun by another version of Onward", expected="--restart")
            self.head = entry
        elif kind == "shard":
            shard = msgspec.convert(entry, ShardDone)
            self.shards[shard.index] = shard
        elif kind == "input":
            self.input_digest = entry["digest"]
