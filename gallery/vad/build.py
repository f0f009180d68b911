"""Builds the package `vad`: Silero's voice activity detector, with its state as an input and an output.

1. Fetch it.  2. Fix the rate, and put the batch first in the state.  3. Compare with the original on a spoken sentence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gallery.fetch import load_source
from gallery.transcriber.build import ACTIVITY, spoken
from onward.errors import ParityError
from onward.prepare.audio import decode_audio
from onward.prepare.vad import CHUNK_SAMPLES, RATE_HZ

if TYPE_CHECKING:
    import onnx

HERE = Path(__file__).parent
CONTEXT_SAMPLES = 64
MEMORY = (2, 128)
SAID = "Cancel my subscription, please."
SILENCE_S = 0.5
EXAMPLES = 8

Progress = Callable[[str, float], None]
Array = npt.NDArray[np.float32]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`. Raises ParityError where the graph differs."""
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    source, file = ACTIVITY
    members = load_source(source)
    original = onnx.load(str(members[file]))
    progress("writing the graph", 0.2)
    onnx.save(packed(original), str(out / "model.onnx"))
    progress("comparing with the original on a sentence", 0.4)
    sound = decode_audio(spoken(SAID), rate_hz=RATE_HZ, max_s=60)
    heard = list(original_answers(original, np.concatenate([np.zeros(int(SILENCE_S * RATE_HZ), np.float32), sound])))
    compare(out / "model.onnx", heard)
    progress("writing the examples", 0.9)
    chosen = [heard[index] for index in np.linspace(0, len(heard) - 1, EXAMPLES).astype(int)]
    lines = [json.dumps({"name": f"{at_s:.2f} s into a sentence", **example}) for at_s, example in chosen]
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    licence = next(path for member, path in members.items() if member.endswith("LICENSE"))
    shutil.copyfile(licence, out / "LICENCE.txt")
    progress("done", 1.0)


def packed(original: onnx.ModelProto) -> onnx.ModelProto:
    """The original between `window` [batch, 576], `memory` [batch, 2, 128], `probability` and `next_memory`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    before = [
        helper.make_node("Identity", ["window"], ["input"]),
        helper.make_node("Transpose", ["memory"], ["state"], perm=[1, 0, 2]),
    ]
    after = [
        helper.make_node("Squeeze", ["output", "last"], ["probability"]),
        helper.make_node("Transpose", ["stateN"], ["next_memory"], perm=[1, 0, 2]),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend([
        numpy_helper.from_array(np.array(RATE_HZ, np.int64), "sr"),
        numpy_helper.from_array(np.array([1], np.int64), "last"),
    ])  # fmt: skip
    tensor = helper.make_tensor_value_info
    window = CONTEXT_SAMPLES + CHUNK_SAMPLES
    graph.input.extend([
        tensor("window", TensorProto.FLOAT, ["batch", window]), tensor("memory", TensorProto.FLOAT, ["batch", *MEMORY]),
    ])  # fmt: skip
    graph.output.extend(
        [
            tensor("probability", TensorProto.FLOAT, ["batch"]),
            tensor("next_memory", TensorProto.FLOAT, ["batch", *MEMORY]),
        ]
    )
    onnx.checker.check_model(model)
    return model


def original_answers(original: onnx.ModelProto, sound: Array) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each window of a sound as an example: when it begins, what goes in, and what the original gives."""
    session = _session(original.SerializeToString())
    window = np.zeros(CONTEXT_SAMPLES + CHUNK_SAMPLES, np.float32)
    state = np.zeros((2, 1, 128), np.float32)
    for start in range(0, len(sound) - CHUNK_SAMPLES, CHUNK_SAMPLES):
        window = np.concatenate([window[-CONTEXT_SAMPLES:], sound[start : start + CHUNK_SAMPLES]])
        feeds = {"input": window[None], "state": state, "sr": np.array(RATE_HZ, np.int64)}
        found, following = session.run(None, feeds)  # (1, 1), (2, 1, 128)
        given = {"window": window.tolist(), "memory": state[:, 0].tolist()}
        answer = {"probability": float(found[0, 0]), "next_memory": following[:, 0].tolist()}
        yield start / RATE_HZ, {"input": given, "answer": answer}
        state = following


def compare(file: Path, heard: list[tuple[float, dict[str, Any]]]) -> None:
    """Raise ParityError where the packed graph gives anything else, one window at a time."""
    session = _session(file.read_bytes())
    for at_s, example in heard:
        feeds = {name: np.array([value], np.float32) for name, value in example["input"].items()}
        probability, memory = session.run(["probability", "next_memory"], feeds)
        wanted, following = example["answer"]["probability"], np.array(example["answer"]["next_memory"], np.float32)
        if probability[0] != wanted or not np.array_equal(memory[0], following):
            raise ParityError(where=f"{at_s:.2f} s", expected=str(wanted), found=str(probability[0]))


def _session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
