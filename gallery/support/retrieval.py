"""Retrieval over the help centre: an article head beside the cosine, fused, and whether anything answers at all.

A bi-encoder's cosine alone puts 78 % of the calibration questions at the right article; the head, trained on what
people ask, brings what the words of an article do not say (card.md). Everything here ends up in one ONNX graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

#: Inverse penalty of the article head; weights of intents' utterances and of out-of-scope ones among its examples.
INVERSE_PENALTY = 0.1
INTENT_WEIGHT, OUTSIDE_WEIGHT = 0.15, 0.3
#: Score of a text = cosine + FUSION × log-probability of its article. Chosen on the calibration questions.
FUSION = 0.15
TOP = 3
MOST_ITERATIONS, STEP_TOLERANCE = 300, 1e-3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ArticleHead:
    """log-probabilities of the articles = log_softmax(features × weight + bias); the last class is "none"."""

    weight: Floats
    bias: Floats

    def log_shares(self, features: Floats) -> npt.NDArray[np.float64]:
        """[rows, features] → [rows, articles + 1] in double precision."""
        logits = features.astype(np.float64) @ self.weight + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


@dataclass(frozen=True, kw_only=True)
class Knowing:
    """known = sigmoid(odds × log-odds of any article + cosine × best cosine + bias)."""

    odds: float
    cosine: float
    bias: float


def train_articles(features: Floats, classes: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> ArticleHead:
    """Fit on features [rows, 768] and class numbers; raises ImportError without scikit-learn (extra `pack`)."""
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64) + 1e-6
    scaled = ((features - mean) / spread).astype(np.float32)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MOST_ITERATIONS, tol=STEP_TOLERANCE)
    fitted = model.fit(scaled, classes, sample_weight=weights)
    slopes = fitted.coef_.astype(np.float64).T / spread[:, np.newaxis]
    bias = fitted.intercept_.astype(np.float64) - mean @ slopes
    return ArticleHead(weight=slopes.astype(np.float32), bias=bias.astype(np.float32))


def signs(log_shares: npt.NDArray[np.float64], cosines: Floats) -> npt.NDArray[np.float64]:
    """What tells whether anything answers, [rows, 2]: the log-odds of any article, the best cosine."""
    nothing = np.clip(log_shares[:, -1], -30.0, -1e-6)
    return np.stack([np.log(-np.expm1(nothing)) - nothing, cosines.max(axis=1).astype(np.float64)], axis=1)


def calibrate(found: npt.NDArray[np.float64], answered: npt.NDArray[np.bool_]) -> Knowing:
    """Fit `known` on questions that the head has not seen."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(found, answered)
    return Knowing(
        odds=float(fitted.coef_[0, 0]), cosine=float(fitted.coef_[0, 1]), bias=float(fitted.intercept_[0])
    )  # fmt: skip


def retrieval_graph(head: ArticleHead, knowing: Knowing, keys: Floats, articles: npt.NDArray[np.int64],
                    classes: int) -> onnx.ModelProto:  # fmt: skip
    """The generate graph: [batch] rows of probabilities, middle_embedding, sentence_embedding in; the best texts out.

    keys: [texts, 384], of length 1; articles: the class number of each text's article, [texts].
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = keys.shape[1]
    constants = {
        "articles.weight": head.weight, "articles.bias": head.bias, "keys": np.ascontiguousarray(keys.T),
        "keys.article": articles.astype(np.int64), "fusion": np.float32(FUSION), "top": np.array([TOP], np.int64),
        "none.at": np.array([head.bias.shape[0] - 1], np.int64), "one": np.float32(1.0),
        "known.odds": np.float32(knowing.odds), "known.cosine": np.float32(knowing.cosine),
        "known.bias": np.float32(knowing.bias), "least": np.float32(-30.0), "most": np.float32(-1e-6),
        "axis": np.array([1], np.int64),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Identity", ["probabilities_in"], ["probabilities"]),
        node("Concat", ["middle_embedding", "sentence_embedding"], ["features"], axis=1),
        node("Gemm", ["features", "articles.weight", "articles.bias"], ["articles.logits"]),
        node("LogSoftmax", ["articles.logits"], ["articles.shares"], axis=-1),
        node("MatMul", ["sentence_embedding", "keys"], ["cosines"]),
        node("Gather", ["articles.shares", "keys.article"], ["keys.shares"], axis=1),
        node("Mul", ["keys.shares", "fusion"], ["keys.fused"]),
        node("Add", ["cosines", "keys.fused"], ["scores"]),
        node("TopK", ["scores", "top"], ["passage_scores", "passage_indices"], axis=1),
        node("Gather", ["articles.shares", "none.at"], ["none.raw"], axis=1),
        node("Clip", ["none.raw", "least", "most"], ["none.share"]),
        node("Exp", ["none.share"], ["none.probability"]),
        node("Sub", ["one", "none.probability"], ["any.probability"]),
        node("Log", ["any.probability"], ["any.share"]),
        node("Sub", ["any.share", "none.share"], ["odds"]),
        node("ReduceMax", ["cosines", "axis"], ["cosine.best"], keepdims=1),
        node("Mul", ["odds", "known.odds"], ["known.a"]),
        node("Mul", ["cosine.best", "known.cosine"], ["known.b"]),
        node("Add", ["known.a", "known.b"], ["known.ab"]),
        node("Add", ["known.ab", "known.bias"], ["known.logit"]),
        node("Sigmoid", ["known.logit"], ["known.column"]),
        node("Squeeze", ["known.column", "axis"], ["known"]),
    ]
    inputs = [("probabilities_in", classes), ("middle_embedding", width), ("sentence_embedding", width)]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("passage_scores", TensorProto.FLOAT, ["batch", TOP]),
        helper.make_tensor_value_info("passage_indices", TensorProto.INT64, ["batch", TOP]),
        helper.make_tensor_value_info("known", TensorProto.FLOAT, ["batch"]),
    ]
    graph = helper.make_graph(
        nodes, "retrieval",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in inputs],
        outputs, [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
