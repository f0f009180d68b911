"""How well the built package `copywriter` writes: what passes its checks at the first try. The numbers of its card.

Asks the engine directly, with the package's own prompt, sampling, grammar and checks: served, a text that fails is
generated again, and its first try is never seen.

    python -m gallery.copywriter.evaluate FOLDER plain|json|free

`free` asks without the grammar, to show what it is worth; there, how a paragraph begins is not held against it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from gallery.copywriter.build import products
from onward.generate.prose import Writing, sentences, words
from onward.package.manifest import load_manifest
from onward.package.records import PromptStep

THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """One generated text and what is wrong with it."""

    item: Mapping[str, Any]
    text: str
    problems: tuple[str, ...]
    paragraph: str


class Author:
    """A package's model, asked directly."""

    def __init__(self, folder: Path, *, guided: bool = True) -> None:
        import xllamacpp

        self.manifest = load_manifest(folder)
        self._guided = guided
        self.writing = Writing(self.manifest, folder)
        self._step = next(step for step in self.manifest.prepare if isinstance(step, PromptStep))
        params = xllamacpp.CommonParams()
        params.model.path = str(folder / self.manifest.execute.file)
        params.n_parallel = self.manifest.execute.slots
        params.n_ctx = self.manifest.execute.context_tokens * params.n_parallel
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        self._engine = xllamacpp.Server(params)

    def __call__(self, item: Mapping[str, Any], seed: int) -> Text:
        """One text, at the first try."""
        sampling = self.manifest.sampling
        answer = self._engine.handle_chat_completions(
            {
                "messages": [
                    {"role": "system", "content": self._step.system},
                    {"role": "user", "content": self._step.template.format_map(item)},
                ],
                "seed": seed,
                "grammar": self.writing.grammar(item) if self._guided else "",
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "top_k": sampling.top_k,
                "repeat_penalty": sampling.repeat_penalty,
            }
        )
        if "choices" not in answer:
            raise RuntimeError(f"the engine refused: {answer}")
        text = answer["choices"][0]["message"]["content"]
        found = self.writing.check(text, item)
        problems = tuple(problem for problem in found if self._guided or "does not begin with" not in problem)
        valid = not any("JSON" in problem for problem in problems)
        paragraph = self.writing.fields(text, item).get("paragraph", "") if valid else ""
        return Text(item=item, text=text, problems=problems, paragraph=paragraph)

    def all(self, items: list[dict[str, Any]], seed: int) -> list[Text]:
        """A text for each item, as many at once as there are slots."""
        with ThreadPoolExecutor(self.manifest.execute.slots) as pool:
            return list(pool.map(lambda numbered: self(numbered[1], seed + numbered[0]), enumerate(items)))


def report(texts: list[Text]) -> dict[str, Any]:
    """What passed, and how long the paragraphs are."""
    written = [text.paragraph for text in texts if text.paragraph]
    return {
        "products": len(texts),
        "passed_first_try": sum(not text.problems for text in texts),
        "valid": len(written),
        "words_fewest": min(map(words, written)),
        "words_mean": round(mean(map(words, written)), 1),
        "sentences_fewest": min(map(sentences, written)),
        "problems": [(text.item["product"], text.problems) for text in texts if text.problems],
    }


def main(folder: Path, kind: str) -> None:
    """Print the numbers, and the first three texts to be read by a person."""
    author = Author(folder, guided=kind != "free")
    items = [item | {"json": kind == "json"} for item in products()]
    started = time.perf_counter()
    first = author.all(items, seed=1)
    seconds = time.perf_counter() - started
    print(report(first) | {"seconds_a_text": round(seconds / len(first), 2)})
    if kind == "plain":
        again = author.all(items[:12], seed=1001)
        print("other seed, other text:", sum(a.text != b.text for a, b in zip(first, again, strict=False)), "of 12")
    for text in first[:3]:
        print(f"\n{text.item['product']}\n{text.text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
