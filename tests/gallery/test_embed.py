"""The gallery package `embed`, held against embeddings of the original implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")

from gallery.embed import build as embed
from onward.errors import ParityError
from onward.package.assembly import assemble
from onward.pipeline import Pipeline

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("embed")
    embed.build(out, progress=lambda step, share: None)
    assemble(out)
    return Pipeline.open(out)


@pytest.fixture(scope="module")
def found(pipeline: Pipeline) -> npt.NDArray[np.float32]:
    texts, _ = embed.reference()
    return np.concatenate([result.tensors["embedding"] for result in pipeline.batch(texts)])


def test_the_embeddings_are_those_of_the_original_implementation(found: npt.NDArray[np.float32]) -> None:
    _, wanted = embed.reference()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5
    assert (found.astype(np.float64) * wanted).sum(axis=1).min() >= 0.999999


def test_every_embedding_has_length_one(found: npt.NDArray[np.float32]) -> None:
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_a_text_embedded_alone_is_embedded_as_in_a_batch_of_mixed_lengths(
    pipeline: Pipeline, found: npt.NDArray[np.float32]
) -> None:
    texts, _ = embed.reference()
    for at in (0, 20, len(texts) - 1):
        alone = pipeline(texts[at]).tensors["embedding"][0]
        assert np.abs(alone - found[at]).max() <= 1e-5


def test_like_meaning_lies_closer_than_like_words(pipeline: Pipeline) -> None:
    question, meaning, words = (
        result.tensors["embedding"][0]
        for result in pipeline.batch(
            ["Where is my parcel?", "My package has not been delivered yet.", "Where is my passport office?"]
        )
    )
    assert float(question @ meaning) > float(question @ words)


def test_the_tokenizer_carries_no_padding_or_truncation_of_its_own(pipeline: Pipeline) -> None:
    content = json.loads((pipeline.package.folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["padding"] is None and content["truncation"] is None


def test_a_difference_from_the_reference_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, wanted = embed.reference()
    monkeypatch.setattr(embed, "reference", lambda: (texts, np.roll(wanted, 1, axis=0)))
    with pytest.raises(ParityError):
        embed.build(tmp_path, progress=lambda step, share: None)
