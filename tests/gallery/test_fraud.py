"""Properties of the built fraud package, checked on the rows that training never saw."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from gallery.fraud import quality
from gallery.fraud.fields import CONTRIBUTIONS, FIELDS

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")
BUILT = Path(__file__).parents[2] / "var" / "repository" / "fraud" / "1.0.0"
OUTPUTS = ("probability", "fraud", "unusual", "unusual_score", "score", "contributions")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (BUILT / "model.onnx").is_file():
        return BUILT
    if any(importlib.util.find_spec(name) is None for name in ("lightgbm", "sklearn")):
        pytest.skip("fraud is not built, and building it needs the extra `pack`")
    from gallery.fraud.build import build

    out = tmp_path_factory.mktemp("fraud")
    build(out, progress=lambda what, share: None)
    return out


@pytest.fixture(scope="module")
def held_out() -> Any:
    from gallery.fraud.build import held_out_transactions

    return held_out_transactions()


@pytest.fixture(scope="module")
def answers(package: Path, held_out: Any) -> dict[str, Any]:
    from gallery.fraud.build import run_model

    return run_model(package / "model.onnx", held_out.features, outputs=OUTPUTS)


@pytest.fixture(scope="module")
def metrics(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((package / "metrics.json").read_text())
    return found


def test_held_out_average_precision_is_at_least_080(held_out: Any, answers: dict[str, Any]) -> None:
    assert quality.average_precision(held_out.labels, answers["probability"].astype(float)) >= 0.80


def test_stated_metrics_are_those_of_the_packed_graph(
    held_out: Any, answers: dict[str, Any], metrics: dict[str, Any]
) -> None:
    probability = answers["probability"].astype(float)
    point = quality.average_precision(held_out.labels, probability)
    low, high = metrics["average_precision_90"]
    assert metrics["average_precision"] == pytest.approx(point, abs=1e-6)
    assert metrics["brier"] == pytest.approx(quality.brier_score(held_out.labels, probability), rel=1e-4)
    assert low < point < high
    assert quality.average_precision_interval(held_out.labels, probability) == pytest.approx((low, high), abs=1e-6)


def test_held_out_rows_are_the_last_three_tenths_in_time(held_out: Any) -> None:
    assert len(held_out) == 85_443
    assert held_out.labels.sum() == 108
    assert np.all(np.diff(held_out.features[:, 0]) >= 0)


def test_probabilities_expect_as_many_frauds_as_there_are(held_out: Any, answers: dict[str, Any]) -> None:
    """Calibration in the large, within three standard deviations of a sum of independent labels."""
    probability = answers["probability"].astype(float)
    spread = np.sqrt((probability * (1 - probability)).sum())
    assert abs(probability.sum() - held_out.labels.sum()) <= 3 * spread
    base_rate = np.full(len(held_out), held_out.labels.mean())
    assert quality.brier_score(held_out.labels, probability) < 0.5 * quality.brier_score(held_out.labels, base_rate)


def test_flags_follow_the_cost_matrix_and_save_money(
    held_out: Any, answers: dict[str, Any], metrics: dict[str, Any]
) -> None:
    matrix = metrics["cost_matrix"]
    amount = held_out.features[:, FIELDS.index("Amount")].astype(float)
    loss = answers["probability"].astype(float) * (amount + matrix["missed_fee"])
    certain = np.abs(loss - matrix["review_cost"]) > 1e-4
    assert np.array_equal(answers["fraud"][certain], (loss >= matrix["review_cost"])[certain])
    spent = quality.cost(held_out.labels, amount, answers["fraud"], **matrix)
    for other in (np.zeros(len(held_out), np.bool_), np.ones(len(held_out), np.bool_)):
        assert spent < 0.6 * quality.cost(held_out.labels, amount, other, **matrix)


def test_contributions_add_up_to_the_score(answers: dict[str, Any]) -> None:
    assert answers["contributions"].shape[1] == len(CONTRIBUTIONS)
    added = answers["contributions"].astype(float).sum(axis=1)
    assert np.abs(added - answers["score"]).max() < 1e-4
    assert np.ptp(answers["contributions"][:, CONTRIBUTIONS.index("bias")]) < 1e-4


def test_contributions_are_answered_only_when_asked_for(package: Path, tmp_path: Path) -> None:
    from onward.package.assembly import assemble
    from onward.pipeline import Pipeline

    folder = tmp_path / "fraud"
    shutil.copytree(package, folder)
    pipeline = Pipeline(assemble(folder))
    fields = json.loads((package / "examples.jsonl").read_text().splitlines()[0])["input"]
    assert set(pipeline(fields).answer) == {"probability", "fraud", "unusual", "unusual_score"}
    asked = pipeline(fields, outputs=("score", "contributions")).answer
    assert tuple(asked["contributions"]) == CONTRIBUTIONS
    assert sum(asked["contributions"].values()) == pytest.approx(asked["score"], abs=1e-4)


def test_contributions_are_computed_only_when_asked_for(package: Path, held_out: Any, tmp_path: Path) -> None:
    def operators_run(feeds: dict[str, Any]) -> list[str]:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        session = onnxruntime.InferenceSession(package / "model.onnx", options, providers=["CPUExecutionProvider"])
        session.run(["probability"], {"features": held_out.features[:4], **feeds})
        events = json.loads(Path(session.end_profiling()).read_text())
        return [event["name"].removesuffix("_kernel_time") for event in events if event["cat"] == "Node"]

    assert "attributed" not in operators_run({})
    assert "attributed" in operators_run({"contributions.wanted": np.array(True)})


def test_the_same_row_gets_the_same_answer_alone_and_in_a_batch(
    package: Path, held_out: Any, answers: dict[str, Any]
) -> None:
    from gallery.fraud.build import run_model

    for row in np.flatnonzero(held_out.labels)[:20]:
        alone = run_model(package / "model.onnx", held_out.features[row : row + 1], outputs=OUTPUTS)
        for name in ("probability", "fraud", "unusual"):
            assert alone[name][0] == answers[name][row]


def novel_pattern(held_out: Any, count: int) -> Any:
    """Honest rows turned into a scheme that nobody has labelled yet.

    Every component moves four standard deviations to the side where the known frauds are not; time and amount stay.
    A classifier of known frauds has no reason to object, yet no honest customer looks like that either.
    """
    components = slice(FIELDS.index("V1"), FIELDS.index("V28") + 1)
    honest, frauds = (held_out.features[held_out.labels == label] for label in (0, 1))
    side = np.sign(frauds.mean(axis=0) - honest.mean(axis=0))
    injected = honest[:: len(honest) // count][:count].copy()
    injected[:, components] -= (4.0 * honest.std(axis=0) * side)[components]
    return injected


def test_unusual_flags_an_injected_pattern_that_the_classifier_misses(package: Path, held_out: Any) -> None:
    from gallery.fraud.build import run_model

    injected = novel_pattern(held_out, 200)
    found = run_model(package / "model.onnx", injected, outputs=("probability", "fraud", "unusual"))
    assert found["fraud"].mean() < 0.05
    assert np.median(found["probability"]) < 0.01
    assert found["unusual"].mean() > 0.95


def test_unusual_is_rare_among_honest_rows(held_out: Any, answers: dict[str, Any]) -> None:
    assert answers["unusual"][held_out.labels == 0].mean() < 0.005


def test_golden_examples_repeat(package: Path) -> None:
    from gallery.fraud.build import run_model

    examples = [json.loads(line) for line in (package / "examples.jsonl").read_text().splitlines()]
    assert len(examples) >= 20
    features = np.array([[example["input"][name] for name in FIELDS] for example in examples], np.float32)
    found = run_model(package / "model.onnx", features, outputs=("probability", "fraud", "unusual", "unusual_score"))
    for row, example in enumerate(examples):
        for name, expected in example["answer"].items():
            assert found[name][row] == pytest.approx(expected, abs=example["tolerance"])


def test_a_policy_that_lets_a_held_card_pay_is_not_opened(package: Path, tmp_path: Path) -> None:
    from onward.decide.rules import load_policy
    from onward.errors import PolicyTestFailed
    from onward.package.manifest import load_manifest

    folder = tmp_path / "fraud"
    shutil.copytree(package, folder)
    rules = load_policy(folder, load_manifest(folder))
    assert rules is not None and set(rules.actions) == {"hold", "open_case"} and rules.entity == "card"
    text = (folder / "policy.toml").read_text("utf-8")
    changed = text.replace('when = "profile.holds_1d > 0"', 'when = "profile.holds_1d > 5"')
    assert changed != text
    (folder / "policy.toml").write_text(changed, "utf-8")
    with pytest.raises(PolicyTestFailed, match="held card"):
        load_policy(folder, load_manifest(folder))


def test_the_policy_reviews_where_the_graph_says_that_a_review_pays(package: Path) -> None:
    """The cost of a review and of a missed fraud are the same in the graph and in the policy."""
    from onward.package.package import open_package
    from onward.pipeline import Pipeline

    pipeline = Pipeline(open_package(package))
    examples = [json.loads(line) for line in (package / "examples.jsonl").read_text().splitlines()]
    for example in examples:
        result = pipeline({**example["input"], "card": "c1", "merchant": "m1"})
        assert result.decision is not None
        wanted = result.answer["fraud"] or result.answer["unusual"]
        assert (result.decision.outcome != "approve") == wanted, example["name"]
