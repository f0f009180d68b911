"""Measures the built package on the held-out utterances, once.

    python -m gallery.intent.evaluate TEST.jsonl [PACKAGE]

The test file's SHA-256 was committed before any training; another file is refused. Intervals are Wilson's, 90 %.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gallery.intent.utterances import OUT_OF_SCOPE, Utterance, read_utterances
from onward.errors import OnwardError, PackageError
from onward.pipeline import Pipeline

DIGEST_FILE = Path(__file__).with_name("data") / "test.sha256"
PACKAGE = Path("var/repository/intent/1.0.0")
BATCH = 32
Z_90 = 1.6448536269514722  # two-sided 90 %


@dataclass(frozen=True, kw_only=True)
class Share:
    """So many of so many, with the interval that holds the true share in 90 % of samples."""

    hits: int
    of: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:7.2%}  [{self.low:.2%}, {self.high:.2%}]  {self.hits} of {self.of}"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the head is worth on utterances it never saw."""

    in_scope_accuracy: Share
    accuracy: Share
    out_of_scope_recall: Share
    out_of_scope_precision: Share
    confusions: list[tuple[str, str, int]]


def share(hits: int, of: int) -> Share:
    """The share and its Wilson interval; of none, everything is possible."""
    if of == 0:
        return Share(hits=0, of=0, share=math.nan, low=0.0, high=1.0)
    found = hits / of
    middle = (found + Z_90**2 / (2 * of)) / (1 + Z_90**2 / of)
    reach = Z_90 / (1 + Z_90**2 / of) * math.sqrt(found * (1 - found) / of + Z_90**2 / (4 * of**2))
    return Share(hits=hits, of=of, share=found, low=max(middle - reach, 0.0), high=min(middle + reach, 1.0))


def quality(wanted: Sequence[str], found: Sequence[str]) -> Quality:
    """Compare intents pair by pair; an utterance in scope that is called out_of_scope counts as wrong."""
    pairs = list(zip(wanted, found, strict=True))
    inside = [(want, got) for want, got in pairs if want != OUT_OF_SCOPE]
    outside = [(want, got) for want, got in pairs if want == OUT_OF_SCOPE]
    called_outside = [(want, got) for want, got in pairs if got == OUT_OF_SCOPE]

    def right(some: list[tuple[str, str]]) -> Share:
        return share(sum(want == got for want, got in some), len(some))

    mistakes = Counter((want, got) for want, got in pairs if want != got)
    return Quality(
        in_scope_accuracy=right(inside),
        accuracy=right(pairs),
        out_of_scope_recall=right(outside),
        out_of_scope_precision=right(called_outside),
        confusions=[(want, got, count) for (want, got), count in sorted(mistakes.items(), key=lambda each: -each[1])],
    )


def held_out(file: Path, digest_file: Path = DIGEST_FILE) -> list[Utterance]:
    """The held-out utterances. Raises PackageError when the file is not the one whose digest was committed."""
    committed = digest_file.read_text(encoding="utf-8").split()[0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != committed:
        raise PackageError("this is not the committed test set", where=file.name, expected=committed, found=digest)
    return read_utterances(file)


def predict(pipeline: Pipeline, texts: Sequence[str]) -> list[str]:
    """The intent of each text, by the whole pipeline: prepare, execute, generate."""
    answers: list[str] = []
    for start in range(0, len(texts), BATCH):
        for result in pipeline.batch(list(texts[start : start + BATCH])):
            answers.append(str(result.answer["label"]))
    return answers


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m gallery.intent.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("test", type=Path, help="the held-out utterances, JSON Lines of text and intent")
    parser.add_argument("package", type=Path, nargs="?", default=PACKAGE)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    try:
        utterances = held_out(options.test)
        found = predict(Pipeline.open(options.package), [each.text for each in utterances])
    except (OnwardError, OSError) as error:
        print(f"error: {error}")
        return 1
    measured = quality([each.intent for each in utterances], found)
    if options.json:
        print(json.dumps(asdict(measured), indent=1))
        return 0
    print(f"accuracy in scope       {measured.in_scope_accuracy}")
    print(f"accuracy over all       {measured.accuracy}")
    print(f"out-of-scope recall     {measured.out_of_scope_recall}")
    print(f"out-of-scope precision  {measured.out_of_scope_precision}")
    print("confusions (wanted, answered, times):")
    for want, got, count in measured.confusions:
        print(f"  {want:28} {got:28} {count}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
