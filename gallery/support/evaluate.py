"""Measures the built package on the held-out questions, once, through the whole dialogue.

    python -m gallery.support.evaluate [PACKAGE]

Each question opens a conversation of its own, with nobody signed in. Right is a reply that quotes the article, or,
where nothing answers the question, one that says so and offers a person. The file's SHA-256 was committed before any
article was written; another file is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from gallery.intent.evaluate import Share, share
from gallery.support.helpcentre import HERE, Question, read_questions
from onward.dialogue import State
from onward.errors import PackageError
from onward.pipeline import Pipeline

PACKAGE = Path("var/repository/support/1.0.0")
BATCH = 32


def held_out() -> list[Question]:
    """The held-out questions. Raises PackageError when the file is not the one whose digest was committed."""
    file = HERE / "data" / "questions.jsonl"
    committed = (HERE / "data" / "questions.sha256").read_text(encoding="utf-8").split()[0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != committed:
        raise PackageError("this is not the committed set", where=file.name, expected=committed, found=digest)
    return read_questions(file.name)


def answers(pipeline: Pipeline, texts: list[str]) -> list[tuple[str, str, float]]:
    """For each question the step of the dialogue, the quoted article's id, and how sure the help centre is."""
    dialogue = pipeline.dialogue
    assert dialogue is not None and pipeline.prepare.features is not None
    profile = dict(pipeline.prepare.features.default)
    found = []
    for start in range(0, len(texts), BATCH):
        results = pipeline.batch([{"text": text} for text in texts[start : start + BATCH]])
        for text, result in zip(texts[start : start + BATCH], results, strict=True):
            understood = dialogue.understand(State(), text, result.answer, profile, 1_800_000_000.0)
            quoted = understood.quote.article.article_id if understood.quote is not None else ""
            found.append((understood.step, quoted, float(result.answer["known"])))
    return found


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m gallery.support.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, nargs="?", default=PACKAGE)
    parser.add_argument(
        "--calibration", action="store_true", help="the calibration questions, which the model has seen"
    )
    options = parser.parse_args()
    questions = read_questions("calibration.jsonl") if options.calibration else held_out()
    with Pipeline.open(options.package) as pipeline:
        found = answers(pipeline, [question.text for question in questions])
    report: dict[str, Any] = {"right": [0, 0], "unknown": [0, 0], "wrong": []}
    for question, (step, quoted, known) in zip(questions, found, strict=True):
        kind = "right" if question.article_id else "unknown"
        is_right = quoted == question.article_id if question.article_id else step == "unknown"
        report[kind][0] += is_right
        report[kind][1] += 1
        if not is_right:
            wanted = question.article_id or "-"
            report["wrong"].append(
                f"  {question.text}  (wanted {wanted}, got {step} {quoted or '-'}, known {known:.2f})"
            )
    right: Share = share(*report["right"])
    unknown: Share = share(*report["unknown"])
    print(f"quotes the right article       {right}")
    print(f"says that it does not know     {unknown}")
    print("\n".join(report["wrong"]))
    print(json.dumps({"right": report["right"], "unknown": report["unknown"]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
