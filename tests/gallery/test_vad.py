"""The gallery package `vad`, held against the original detector on sounds it was not packed with."""

from __future__ import annotations

import numpy as np
import pytest

from gallery.fetch import load_source
from gallery.transcriber.build import ACTIVITY
from gallery.vad import build as vad
from onward.package.assembly import assemble
from onward.pipeline import Pipeline

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    out = tmp_path_factory.mktemp("vad")
    vad.build(out, progress=lambda step, done: None)
    return Pipeline(assemble(out))


def test_golden_examples_hold_and_some_of_them_are_speech(pipeline: Pipeline) -> None:
    assert pipeline.check_examples() == vad.EXAMPLES


def test_windows_of_two_sounds_run_together_and_each_has_the_original_s_probability(pipeline: Pipeline) -> None:
    import onnx

    original = onnx.load(str(load_source(ACTIVITY[0])[ACTIVITY[1]]))
    generator = np.random.default_rng(5)
    sounds = [generator.uniform(-0.3, 0.3, 8192).astype(np.float32), np.sin(np.arange(8192) / 9).astype(np.float32) / 2]
    wanted = [list(vad.original_answers(original, sound)) for sound in sounds]
    for pair in zip(*wanted, strict=True):
        answers = pipeline.batch([example["input"] for _, example in pair], outputs=["next_memory"])
        for (_, example), found in zip(pair, answers, strict=True):
            assert found.answer["probability"] == pytest.approx(example["answer"]["probability"], abs=1e-6)
            assert np.allclose(found.answer["next_memory"], example["answer"]["next_memory"], atol=1e-5)
