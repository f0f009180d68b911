"""What a smaller model costs: every setting of `onward edge --quantize` on embed, intent and vision.

    python -m bench.quantizing [--packages embed intent vision] [--out FOLDER]

Inputs are real ones that no model was made or calibrated with: for embed the sentences of its reference that are no
golden examples, customers' utterances and sentences of scikit-learn's descriptions of data sets; for intent its
held-out utterances; for vision twenty photos of ImageNet and forty crops of each. Run it on a quiet machine: times are
medians on one thread, both models in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import facts
from onward.package.package import open_package
from onward.runners.edge.quantizing import AUTO, quantize, table
from onward.types import Input

RESULTS = Path(__file__).with_name("results") / "2026-11-25-quantizing"
UTTERANCES = Path(__file__).parents[1] / "gallery" / "intent" / "data" / "test.jsonl"
_CROPS = 40
_LEAST_SHARE = 0.4
_SENTENCE = range(30, 400)


def texts(golden: Sequence[str]) -> list[Input]:
    """Sentences that embed was not calibrated with: short and long, chat and prose."""
    from gallery.embed import build

    known = set(golden)
    reference = [text for text in build.reference()[0] if text not in known]
    return [*reference, *utterances()[::2], *_prose()]


def utterances(golden: Sequence[str] = ()) -> list[Any]:
    """The held-out utterances of intent."""
    return [json.loads(line)["text"] for line in UTTERANCES.read_text("utf-8").splitlines()]


def photos(golden: Sequence[bytes] = ()) -> list[Input]:
    """Photos of ImageNet, and parts of them."""
    import io

    from PIL import Image

    from gallery.fetch import load_source

    source = random.Random(0)  # reproducible, no secret
    labelled = Path(__file__).parents[1] / "gallery" / "vision" / "labelled.toml"
    made: list[Input] = []
    for name, path in sorted(load_source("foolbox", labelled).items()):
        if not name.endswith(".jpg"):
            continue
        made.append(Path(path).read_bytes())
        picture = Image.open(path).convert("RGB")
        for _ in range(_CROPS):
            width, height = (int(side * source.uniform(_LEAST_SHARE, 1)) for side in picture.size)
            left, top = source.randint(0, picture.width - width), source.randint(0, picture.height - height)
            stream = io.BytesIO()
            picture.crop((left, top, left + width, top + height)).save(stream, "JPEG", quality=90)
            made.append(stream.getvalue())
    return made


INPUTS: dict[str, Callable[[Sequence[Any]], list[Input]]] = {
    "embed": texts, "intent": utterances, "vision": photos,
}  # fmt: skip


def main() -> None:
    """Print the tables and keep them."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantizing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--repository", type=Path, default=Path("var/repository"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.packages:
        package = open_package(options.repository / name / "1.0.0")
        with tempfile.TemporaryDirectory() as place:
            golden = _golden_texts(package.folder)
            file, trials = quantize(package, AUTO, Path(place), inputs=INPUTS[name](golden), force=True)
            chosen = next(one.setting for one in trials if one.size_bytes == file.stat().st_size)
        print(f"{name} (auto takes {chosen})\n{table(trials)}\n", flush=True)
        kept = {
            "package": name, "digest": package.id.digest, "auto": chosen, "machine": facts(),
            "trials": [asdict(one) for one in trials],
        }  # fmt: skip
        (options.out / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _golden_texts(folder: Path) -> list[str]:
    from onward.package.examples import read_examples

    return [str(example.input.get("text", "")) for example in read_examples(folder)]


def _prose() -> list[str]:
    """Sentences of the descriptions of data sets that scikit-learn ships."""
    import sklearn

    found = []
    for file in sorted((Path(sklearn.__file__).parent / "datasets" / "descr").glob("*.rst")):
        for paragraph in re.split(r"\n\s*\n", file.read_text("utf-8")):
            sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(paragraph.split()))
            found += [one for one in sentences if len(one) in _SENTENCE and one[0].isupper()]
    return found


if __name__ == "__main__":
    main()
