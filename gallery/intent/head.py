"""The intent head: multinomial logistic regression on the pooled states of two encoder layers.

Trained at build time, the same to the last bit on the same machine. It knows features and labels, no texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Inverse strength of the L2 penalty, on standardised features; chosen by cross-validation (card.md).
INVERSE_PENALTY = 0.01
#: Divides the logits: the penalty makes the head less sure of itself than it may be on utterances it never saw.
TEMPERATURE = 0.8
#: Logit of a last, constant class that joins out_of_scope: where no intent's evidence exceeds it, none is answered.
BACKGROUND_LOGIT = 2.0
MOST_ITERATIONS = 200
STEP_TOLERANCE = 1e-3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Head:
    """logits = features x weight + bias, the scaling of the features folded in.

    weight: [features, classes]; bias: [classes]. The last class is out_of_scope.
    """

    weight: Floats
    bias: Floats
    background: float

    def probabilities(self, features: Floats) -> npt.NDArray[np.float64]:
        """[rows, features] → [rows, classes] in double precision, for comparison with the graph."""
        logits = features.astype(np.float64) @ self.weight.astype(np.float64) + self.bias
        every = np.concatenate([logits, np.full((len(logits), 1), self.background)], axis=1)
        shares = np.exp(every - every.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[:, -2] += shares[:, -1]
        return np.asarray(shares[:, :-1])


def train_head(features: Floats, classes: npt.NDArray[np.int64]) -> Head:
    """Fit on features [rows, features] and class numbers [rows]; every class must occur.

    Raises ImportError where scikit-learn, of the extra `pack`, is not installed.
    """
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64) + 1e-6
    scaled = ((features - mean) / spread).astype(np.float32)
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=MOST_ITERATIONS, tol=STEP_TOLERANCE).fit(scaled, classes)
    # softmax ignores what all classes share; without it logits have a fixed zero, which the background needs
    slopes = fitted.coef_ - fitted.coef_.mean(axis=0)
    offsets = fitted.intercept_ - fitted.intercept_.mean()
    weight = slopes.astype(np.float64).T / spread[:, np.newaxis]
    bias = offsets.astype(np.float64) - mean @ weight
    return Head(
        weight=(weight / TEMPERATURE).astype(np.float32),
        bias=(bias / TEMPERATURE).astype(np.float32),
        background=BACKGROUND_LOGIT,
    )
