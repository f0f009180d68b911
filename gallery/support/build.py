"""Builds the package `support`: encoder and intent head of `intent`, a help centre to retrieve from, dialogue, policy.

1. Encoder and intent head as in `intent`.  2. Encode the help centre and what people ask.  3. Train the article head
without the calibration questions, and fit on those how sure it may be.  4. Train it again with them.  5. Write both
graphs, the articles, the dialogue and the policy.  6. Check every golden example in double precision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gallery.intent.build import EMBEDDING, MIDDLE, PROBABILITIES, add_head, training_set, weights_folder, write_encoder
from gallery.intent.encoder import encode
from gallery.intent.head import train_head
from gallery.intent.misspellings import teach
from gallery.intent.utterances import intents, read_utterances
from gallery.support.helpcentre import (
    ARTICLE_OF_INTENT,
    NONE,
    articles_jsonl,
    keys_of,
    read_asked,
    read_pages,
    read_questions,
)
from gallery.support.retrieval import (
    INTENT_WEIGHT,
    OUTSIDE_WEIGHT,
    ArticleHead,
    calibrate,
    retrieval_graph,
    signs,
    train_articles,
)
from onward.dialogue import Dialogue
from onward.errors import ParityError

HERE = Path(__file__).parent
CARRIED = ("onward.toml", "dialogue.toml", "policy.toml", "card.md")
EXAMPLES = (
    ("cancel my subscription please", "cancel_subscription"),
    ("can i get my money back for order 10432", "request_refund"),
    ("put my sub on hold until january", "pause_subscription"),
    ("How long can I pause my subscription?", "pause_subscription"),
    ("where's my parcel?", "track_order"),
    ("let me talk to a human", "talk_to_human"),
    ("hello there", "greet"),
    ("what is the capital of Mongolia", "out_of_scope"),
    ("I want to complain, this is unacceptable", "complain_about_service"),
    ("yes please", "confirm_yes"),
)
TOLERANCE = 1e-4

Progress = Callable[[str, float], None]
Floats = npt.NDArray[np.float32]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`. Raises ParityError where an example differs."""
    import onnx
    from onnx import helper
    from tokenizers import Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    folder = weights_folder()
    utterances = read_utterances()
    names = intents(utterances)
    progress("writing the encoder", 0.03)
    encoder = write_encoder(folder)
    taught = teach((folder / "tokenizer.json").read_text(encoding="utf-8"), (each.text for each in utterances))
    (out / "tokenizer.json").write_text(taught, encoding="utf-8")
    tokenizer = Tokenizer.from_str(taught)
    features, classes = training_set(
        encoder, tokenizer, utterances, names, progress=lambda share: progress("encoding", 0.05 + 0.5 * share)
    )
    progress("training the intent head", 0.55)
    head = train_head(features, classes)
    model = add_head(encoder, head)
    width = model.graph.output[1].type.tensor_type.shape.dim[1].dim_value
    model.graph.output.append(helper.make_tensor_value_info(MIDDLE, onnx.TensorProto.FLOAT, ["batch", width]))
    rename(model, PROBABILITIES, "probabilities_in")
    onnx.save(model, str(out / "model.onnx"))

    def features_of(texts: list[str]) -> Floats:
        return np.concatenate(encode(encoder, tokenizer, texts, [MIDDLE, EMBEDDING]), axis=1)

    progress("training the retrieval", 0.7)
    # Of the training set's two copies the first are the utterances as they were written.
    articles = train_retrieval(
        out, features_of, features[: len(utterances)], [each.intent for each in utterances], len(names)
    )
    (out / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (out / "articles.jsonl").write_text(articles_jsonl(read_pages()), encoding="utf-8")
    for name in CARRIED:
        shutil.copyfile(HERE / name, out / name)
    progress("checking", 0.95)
    wanted = head.probabilities(features_of([text for text, _ in EXAMPLES]))
    write_examples(out, names, wanted, articles, features_of)
    Dialogue.open(out)
    progress("done", 1.0)


def rename(model: object, old: str, new: str) -> None:
    """Give an output another name, where a later graph has an output of the old one."""
    graph = model.graph  # type: ignore[attr-defined]
    for node in graph.node:
        for at, name in enumerate(node.output):
            if name == old:
                node.output[at] = new
    for output in graph.output:
        if output.name == old:
            output.name = new


def train_retrieval(
    out: Path, features_of: Callable[[list[str]], Floats], spoken: Floats, spoken_intents: list[str], intent_count: int
) -> ArticleHead:
    """Train, calibrate and write `generate.onnx` and `passages.txt`; returns the head."""
    import onnx

    pages, keys = read_pages(), keys_of(read_pages())
    nothing = read_asked()[1]
    numbers = {page.article_id: at for at, page in enumerate(pages)} | {NONE: len(pages)}
    questions = read_questions("calibration.jsonl")
    key_rows, none_rows = features_of([key.text for key in keys]), features_of(nothing)
    asked_rows = features_of([question.text for question in questions])
    about = [at for at, intent in enumerate(spoken_intents) if intent in ARTICLE_OF_INTENT]
    of_intents = [ARTICLE_OF_INTENT[spoken_intents[at]] for at in about]
    rows = np.concatenate([key_rows, none_rows, spoken[about]])
    classes = np.array(
        [numbers[key.article_id] for key in keys]
        + [numbers[NONE]] * len(nothing)
        + [numbers[name] for name in of_intents]
    )
    weights = np.concatenate([
        np.ones(len(keys) + len(nothing)),
        [OUTSIDE_WEIGHT if name == NONE else INTENT_WEIGHT for name in of_intents],
    ])  # fmt: skip
    wanted = np.array([numbers[question.article_id or NONE] for question in questions])
    width = key_rows.shape[1] // 2
    matrix = np.ascontiguousarray(key_rows[:, width:])
    cosines = asked_rows[:, width:] @ matrix.T
    unseen = train_articles(rows, classes, weights)
    knowing = calibrate(signs(unseen.log_shares(asked_rows), cosines), wanted != numbers[NONE])
    head = train_articles(
        np.concatenate([rows, asked_rows]), np.concatenate([classes, wanted]),
        np.concatenate([weights, np.ones(len(wanted))]),
    )  # fmt: skip
    of_keys = np.array([numbers[key.article_id] for key in keys])
    onnx.save(retrieval_graph(head, knowing, matrix, of_keys, intent_count), str(out / "generate.onnx"))
    (out / "passages.txt").write_text("\n".join(key.passage for key in keys) + "\n", encoding="utf-8")
    return head


def write_examples(
    out: Path,
    names: list[str],
    wanted: npt.NDArray[np.float64],
    articles: ArticleHead,
    features_of: Callable[[list[str]], Floats],
) -> None:
    """Golden examples, with probabilities computed in double precision. Raises ParityError for a wrong label."""
    lines = []
    for at, ((text, intent), row) in enumerate(zip(EXAMPLES, wanted, strict=True), 1):
        if names[int(row.argmax())] != intent:
            raise ParityError(where=text, expected=intent, found=names[int(row.argmax())])
        example = {
            "name": f"message-{at}",
            "input": {"text": text},
            "answer": {"label": intent},
            "tensors": {PROBABILITIES: [round(float(value), 7) for value in row]},
            "tolerance": TOLERANCE,
        }
        lines.append(json.dumps(example, ensure_ascii=False))
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
