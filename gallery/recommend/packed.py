"""The packed graphs, run as Onward runs them: for measuring, for golden examples and for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gallery.recommend.graphs import Array, model_graph, prepare_graph
from gallery.recommend.ranking import Learned, genre_names
from gallery.recommend.ratings import Film, Ints
from gallery.recommend.split import Case
from onward.execute.onnx import OnnxBackend

OUTPUTS = ("ids", "scores", "reason", "because")
PREPARE_FILE, MODEL_FILE = "prepare.onnx", "model.onnx"


def write_graphs(learned: Learned, films: Sequence[Film], folder: Path) -> None:
    """Write both graphs into a folder."""
    movies = [film.movie for film in films]
    for name, model in (
        (PREPARE_FILE, prepare_graph(learned, movies, genre_names(films))),
        (MODEL_FILE, model_graph(learned, movies)),
    ):
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))


class Packed:
    """Both graphs of a folder, one item at a time."""

    def __init__(self, folder: Path, films: Sequence[Film]) -> None:
        self._prepare = OnnxBackend(folder / PREPARE_FILE, threads=1)
        self._model = OnnxBackend(folder / MODEL_FILE, threads=1)
        self._films = films
        self._places = {film.movie: place for place, film in enumerate(films)}

    def __call__(
        self, history: Iterable[int] = (), stars: Iterable[float] = (), genres: Iterable[str] = (), *, like: int = 0,
        diversity: float = 0.0,
    ) -> dict[str, Array]:  # fmt: skip
        """The outputs for one item, [20] each; films by MovieLens' numbers, newest first."""
        preferred = np.empty(len(names := list(genres)), dtype=object)
        preferred[:] = names
        feeds: dict[str, Array] = {
            "history": np.array(list(history), np.int64), "stars": np.array(list(stars), np.float32),
            "genres": preferred, "like": np.array(like, np.int64), "diversity": np.array(diversity, np.float32),
        }  # fmt: skip
        made = [spec.name for spec in self._prepare.outputs]
        tensors = dict(zip(made, self._prepare.run(feeds, made), strict=True))
        outputs = self._model.run(tensors, OUTPUTS)
        return {name: values[0] for name, values in zip(OUTPUTS, outputs, strict=True)}

    def best(self, case: Case, *, diversity: float = 0.0) -> Ints:
        """The places of the 20 films recommended to a person of a window."""
        newest_first = [self._films[item].movie for item in case.items[::-1]]
        ids = self(newest_first, case.stars[::-1], diversity=diversity)["ids"]
        return np.array([self._places[int(number)] for number in ids], np.int64)
