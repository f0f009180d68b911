"""The two graphs of the package: an item to tensors of fixed size, and those to recommendations.

    prepare, per item:  history, stars, genres, like ──> places, weights, seen, taste, like_place, diversity
    model, batched:     fold in ── score every film ── leave out what was seen ── best 60 ── diversify ── 20, and why

A film is named by MovieLens' number outside and by its place inside; the place `films` (one beyond the last) stands for
no film: its vector is zero, so that histories of any length fill 100 places. Knows nothing of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gallery.recommend.ranking import HISTORY, Learned, history_weights

OPSET = 17
BEST = 20
CANDIDATES = 60
UNRATED_STARS = 4.0
"""What a film of the history counts as when no stars are given for it: liked."""
NOT_WANTED = -1e9
POPULAR, WATCHED, GENRE, LIKE = range(4)
"""The reasons, in the order of the manifest's texts."""

Array = NDArray[Any]


class _Graph:
    """Nodes and constants, collected; a node is written as a call and gives the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}

    def constant(self, name: str, value: Array) -> str:
        self._constants[name] = value
        return name

    def int64(self, *values: int) -> str:
        """A vector of integers, shared by all who ask for the same."""
        return self.constant("i_" + "_".join(map(str, values)), np.array(values, np.int64))

    def float32(self, value: float) -> str:
        return self.constant(f"f_{value:g}", np.float32(value))

    def __call__(self, operator: str, *inputs: str, to: str = "", second: str = "", **attributes: Any) -> str:
        output = to or f"{operator.lower()}_{len(self._nodes)}"
        outputs = [output, second] if second else [output]
        domain = "ai.onnx.ml" if operator == "LabelEncoder" else ""
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, name=output, domain=domain, **attributes))
        return output

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.ModelProto:
        constants = [numpy_helper.from_array(np.asarray(value), key) for key, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), initializer=constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 2)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="onward gallery", ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def prepare_graph(learned: Learned, movies: Sequence[int], genres: Sequence[str]) -> onnx.ModelProto:
    """One item: history INT64 [n], newest first, stars FP32 [m], genres BYTES [k], like INT64 [], diversity FP32 []."""
    g, films = _Graph(), len(movies)
    place_of = np.full(max(movies) + 2, films, np.int64)  # the last entry stands for every number beyond
    place_of[list(movies)] = np.arange(films)
    table = g.constant("place_of", place_of)
    ends = g.constant("lowest", np.int64(0)), g.constant("highest", np.int64(len(place_of) - 1))
    places = g("Gather", table, g("Clip", "history", *ends))  # (n,)
    padding = g.constant("no_films", np.full(HISTORY, films, np.int64))
    latest = _first(g, g("Concat", places, padding, axis=0))  # (100,)
    usual = g.constant("usual_stars", np.full(HISTORY, UNRATED_STARS, np.float32))
    stars = _first(g, g("Concat", "stars", usual, axis=0))
    stars = g("Where", g("IsNaN", stars), usual, stars)
    clipped = g("Clip", g("Sub", stars, g.float32(3.0)), g.float32(0.0), g.float32(1.0))
    fading = history_weights(np.full(HISTORY, 4.0), learned.recipe).astype(np.float32)
    first = g.int64(0)
    g("Unsqueeze", latest, first, to="places")
    g("Unsqueeze", g("Mul", clipped, g.constant("fading", fading)), first, to="weights")
    g("Unsqueeze", _marked(g, places, films), first, to="seen")
    numbers = {name: number for number, genre in enumerate(genres) for name in (genre, genre.lower())}
    known = g(
        "LabelEncoder", "genres", keys_strings=list(numbers), values_int64s=list(numbers.values()),
        default_int64=len(genres),
    )  # fmt: skip
    asked = g("Where", _marked(g, known, len(genres)), g.float32(1.0), g.float32(0.0))
    length = g("Sqrt", g("Max", g("ReduceSum", asked, keepdims=1), g.float32(1.0)))
    g("Unsqueeze", g("Div", asked, length), first, to="taste")
    g("Gather", table, g("Clip", g("Unsqueeze", "like", first), *ends), to="like_place")
    g("Unsqueeze", "diversity", first, to="diversity_of_item")
    floats, integers, flags = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    inputs = [
        helper.make_tensor_value_info("history", integers, ["films"]),
        helper.make_tensor_value_info("stars", floats, ["rated"]),
        helper.make_tensor_value_info("genres", TensorProto.STRING, ["preferred"]),
        helper.make_tensor_value_info("like", integers, []),
        helper.make_tensor_value_info("diversity", floats, []),
    ]
    outputs = [
        helper.make_tensor_value_info("places", integers, [1, HISTORY]),
        helper.make_tensor_value_info("weights", floats, [1, HISTORY]),
        helper.make_tensor_value_info("seen", flags, [1, films]),
        helper.make_tensor_value_info("taste", floats, [1, len(genres)]),
        helper.make_tensor_value_info("like_place", integers, [1]),
        helper.make_tensor_value_info("diversity_of_item", floats, [1]),
    ]
    return g.model("recommend_prepare", inputs, outputs)


def model_graph(learned: Learned, movies: Sequence[int]) -> onnx.ModelProto:
    """A batch of prepared items → ids INT64, scores FP32, reason INT64, because INT64, each [batch, 20]."""
    g, films = _Graph(), len(movies)
    rank, genres, recipe = learned.vectors.shape[1], learned.genres.shape[1], learned.recipe
    vectors = g.constant("vectors", np.vstack([learned.vectors, np.zeros(rank)]).astype(np.float32))
    numbers = g.constant("numbers", np.array([*movies, 0], np.int64))
    each = g.constant("each_film", np.arange(films, dtype=np.int64))
    one = g.int64(1)
    watched = g("Gather", vectors, "places")  # (batch, 100, rank)
    person = g("Squeeze", g("MatMul", g("Unsqueeze", "weights", one), watched), one)  # (batch, rank)
    like = g("Unsqueeze", "like_place", one)  # (batch, 1)
    similar = g("Less", like, g.int64(films))
    asked_by = g("Where", similar, g("Gather", vectors, "like_place"), person)
    products = g("Gemm", asked_by, vectors, transB=1)  # (batch, films + 1)
    lengths = np.linalg.norm(learned.vectors, axis=1)
    per_film = g.constant("by_own", (1.0 / learned.own).astype(np.float32))
    per_like = g.constant("by_length", (1.0 / (lengths + recipe.shrink)).astype(np.float32))
    length = g.constant("length_of", np.append(1.0 / np.maximum(lengths, 1e-9), 0.0).astype(np.float32))
    per_like = g("Mul", g("Gather", length, like), per_like)  # (batch, films)
    every = g("Slice", products, g.int64(0), g.int64(films), g.int64(1))
    taken = g("Mul", every, g("Where", similar, per_like, per_film))
    popular = g.constant("popular", (recipe.popular * learned.popular).astype(np.float32))
    by_genre = g.constant("genre_of", (recipe.genre * learned.genres).T.astype(np.float32))
    liked = g("MatMul", "taste", by_genre)
    prior = g("Where", similar, g.float32(0.0), g("Add", liked, popular))
    left_out = g("Or", "seen", g("Equal", each, like))
    scores = g("Where", left_out, g.float32(NOT_WANTED), g("Add", taken, prior))
    values, candidates = g("TopK", scores, g.int64(CANDIDATES), to="values", second="candidates"), "candidates"
    genres_of = g.constant("genres_of", np.vstack([learned.genres, np.zeros((1, genres))]).astype(np.float32))
    likeness = _likeness(g, g("Gather", vectors, candidates), g("Gather", genres_of, candidates))
    order = _diversified(g, values, likeness, similar)  # (batch, 20), places among the candidates
    best, best_scores = g("GatherElements", candidates, order, axis=1), g("GatherElements", values, order, axis=1)
    wanted = g("Greater", best_scores, g.float32(NOT_WANTED / 2))
    zero = g.int64(0)
    g("Where", wanted, g("Gather", numbers, best), zero, to="ids")
    g("Identity", best_scores, to="scores")
    _explained(g, vectors=vectors, watched=watched, best=best, similar=similar, learned=learned, numbers=numbers)
    floats, integers, flags = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    inputs = [
        helper.make_tensor_value_info("places", integers, ["batch", HISTORY]),
        helper.make_tensor_value_info("weights", floats, ["batch", HISTORY]),
        helper.make_tensor_value_info("seen", flags, ["batch", films]),
        helper.make_tensor_value_info("taste", floats, ["batch", genres]),
        helper.make_tensor_value_info("like_place", integers, ["batch"]),
        helper.make_tensor_value_info("diversity_of_item", floats, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, floats if name == "scores" else integers, ["batch", BEST])
        for name in ("ids", "scores", "reason", "because")
    ]
    return g.model("recommend", inputs, outputs)


def _likeness(g: _Graph, vectors: str, genres: str) -> str:
    """How alike each two candidates are, [batch, 60, 60]: half by who watched them, half by their genres."""
    unit = g("Div", vectors, g("Max", g("ReduceL2", vectors, axes=[2], keepdims=1), g.float32(1e-9)))
    by_people, by_genres = (g("MatMul", rows, g("Transpose", rows, perm=[0, 2, 1])) for rows in (unit, genres))
    return g("Mul", g("Add", by_people, by_genres), g.float32(0.5))


def _diversified(g: _Graph, values: str, likeness: str, similar: str) -> str:
    """Greedy maximal marginal relevance: 20 of the candidates, each the best once its likeness to the chosen is paid.

    values [batch, 60], best first; likeness [batch, 60, 60]. At diversity 0, and where films
    like one were asked for (`similar`), the candidates stay in their order.
    """
    one = g.int64(1)
    share = g("Where", similar, g.float32(0.0), g("Unsqueeze", "diversity_of_item", one))  # (batch, 1)
    top = g("ReduceMax", values, axes=[1], keepdims=1)
    low = g("ReduceMin", g("Max", values, g.float32(NOT_WANTED / 2)), axes=[1], keepdims=1)
    span = g("Max", g("Sub", top, low), g.float32(1e-9))
    relevance = g("Mul", g("Div", g("Sub", values, low), span), g("Sub", g.float32(1.0), share))
    nearest = g("Mul", values, g.float32(0.0))  # likeness to the nearest chosen one; nothing is chosen yet
    each = g.constant("each_candidate", np.arange(CANDIDATES, dtype=np.int64))
    order = []
    for step in range(BEST):
        worth = g("Sub", relevance, g("Mul", share, nearest))
        chosen = g("ArgMax", worth, axis=1, keepdims=1)  # (batch, 1)
        order.append(chosen)
        if step + 1 < BEST:
            nearest = g("Max", nearest, g("GatherND", likeness, chosen, batch_dims=1))
            relevance = g("Where", g("Equal", each, chosen), g.float32(NOT_WANTED), relevance)
    return g("Concat", *order, axis=1)


def _explained(
    g: _Graph, *, vectors: str, watched: str, best: str, similar: str, learned: Learned, numbers: str
) -> None:
    """The largest part of each score, and the film or genre behind it: `reason` and `because`, [batch, 20] each."""
    recipe = learned.recipe
    own = g.constant("own", np.append(learned.own, 1.0).astype(np.float32))
    products = g("MatMul", g("Gather", vectors, best), g("Transpose", watched, perm=[0, 2, 1]))  # (batch, 20, 100)
    own_of_best = g("Unsqueeze", g("Gather", own, best), g.int64(2))
    parts = g("Div", g("Mul", products, g("Unsqueeze", "weights", g.int64(1))), own_of_best)
    from_history = g("ReduceSum", parts, g.int64(2), keepdims=0)  # (batch, 20)
    strongest = g("ArgMax", parts, axis=2, keepdims=0)
    by_film = g("Gather", numbers, g("GatherElements", "places", strongest, axis=1))
    matched = g("Mul", g("Gather", "genres_of", best), g("Unsqueeze", "taste", g.int64(1)))  # (batch, 20, genres)
    from_genre = g("Mul", g("ReduceSum", matched, g.int64(2), keepdims=0), g.float32(recipe.genre))
    by_genre = g("Neg", g("Add", g("ArgMax", matched, axis=2, keepdims=0), g.int64(1)))  # a genre's id is below zero
    popular_table = g.constant("popular_of", np.append(recipe.popular * learned.popular, 0.0).astype(np.float32))
    axis = g.int64(2)
    # Popularity is everybody's reason; it counts half, so that a person is told their own where they have one.
    popular = g("Mul", g("Gather", popular_table, best), g.float32(0.5))
    each = [g("Unsqueeze", part, axis) for part in (popular, from_history, from_genre)]
    largest = g("ArgMax", g("Concat", *each, axis=2), axis=2, keepdims=0)  # in the order of the reasons
    watched_most, genre_most = (g("Equal", largest, g.int64(number)) for number in (WATCHED, GENRE))
    because = g("Where", watched_most, by_film, g("Where", genre_most, by_genre, g.int64(0)))
    like_number = g("Unsqueeze", g("Gather", numbers, "like_place"), g.int64(1))
    g("Where", similar, g.int64(LIKE), largest, to="reason")
    g("Where", similar, like_number, because, to="because")


def _first(g: _Graph, vector: str) -> str:
    """The first 100 elements."""
    return g("Slice", vector, g.int64(0), g.int64(HISTORY))


def _marked(g: _Graph, places: str, size: int) -> str:
    """BOOL [size]: true at each place below `size` that is named."""
    nothing = g.constant(f"nothing_{size}", np.zeros(size + 1, np.bool_))
    ones = g("Expand", g.constant("true", np.bool_(True)), g("Shape", places))
    return g("Slice", g("ScatterElements", nothing, places, ones, axis=0), g.int64(0), g.int64(size))
