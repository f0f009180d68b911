"""The payment service's ledger: held cards and cases, in a SQLite file of its own.

Every effect is made once for its idempotency key: a repeated one gives what was answered the first time. Knows nothing
of HTTP, and nothing of Onward.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS holds (id INTEGER PRIMARY KEY AUTOINCREMENT, card TEXT, amount REAL, probability REAL,
  at_s REAL);
CREATE INDEX IF NOT EXISTS holds_of_card ON holds (card);
CREATE TABLE IF NOT EXISTS cases (id INTEGER PRIMARY KEY AUTOINCREMENT, card TEXT, amount REAL, probability REAL,
  why TEXT, at_s REAL, status TEXT NOT NULL DEFAULT 'open');
CREATE TABLE IF NOT EXISTS effects (idempotency_key TEXT PRIMARY KEY, decision TEXT, name TEXT, arguments TEXT,
  receipt TEXT, at_s REAL);
"""


class Refused(Exception):
    """The payment service does not do this; the text says why."""


class Ledger:
    """The database of one payment service. Safe to use from several threads: they take turns."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the file, made where it is not there."""
        self._clock = clock
        self._turn = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + _TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def effect(self, key: str, name: str, arguments: Mapping[str, Any], *, decision: str = "") -> dict[str, Any]:
        """Do what is asked, once for this key; returns the receipt. Raises `Refused`, and then nothing was done."""
        make = {"hold": self._hold, "open_case": self._open_case}.get(name)
        if make is None:
            raise Refused(f"there is no action {name!r}")
        wanted = json.dumps(arguments, sort_keys=True)
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                receipt = self._before(key, name, wanted)
                if receipt is None:
                    receipt = make(arguments)
                    row = (key, decision, name, wanted, json.dumps(receipt), self._clock())
                    self._db.execute("INSERT INTO effects VALUES (?, ?, ?, ?, ?, ?)", row)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return receipt

    def _before(self, key: str, name: str, wanted: str) -> dict[str, Any] | None:
        found = self._db.execute("SELECT * FROM effects WHERE idempotency_key = ?", (key,)).fetchone()
        if found is None:
            return None
        if (found["name"], found["arguments"]) != (name, wanted):
            raise Refused("this idempotency key was used for something else")
        return dict(json.loads(found["receipt"]))

    def _hold(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        card = str(arguments["card"])
        row = (card, float(arguments["amount"]), float(arguments["probability"]), self._clock())
        made = self._db.execute("INSERT INTO holds (card, amount, probability, at_s) VALUES (?, ?, ?, ?)", row)
        return {"hold": f"H-{made.lastrowid:05d}", "card": card}

    def _open_case(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        row = (str(arguments["card"]), float(arguments["amount"]), float(arguments["probability"]),
               str(arguments["why"]), self._clock())  # fmt: skip
        made = self._db.execute("INSERT INTO cases (card, amount, probability, why, at_s) VALUES (?, ?, ?, ?, ?)", row)
        return {"case": f"C-{made.lastrowid:05d}"}

    def receipt(self, key: str) -> dict[str, Any] | None:
        """What was answered to an effect, None where it never happened."""
        rows = self.rows("SELECT receipt FROM effects WHERE idempotency_key = ?", key)
        return dict(json.loads(rows[0]["receipt"])) if rows else None

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """The rows of a query of this package."""
        with self._turn:
            return [dict(row) for row in self._db.execute(query, values).fetchall()]
