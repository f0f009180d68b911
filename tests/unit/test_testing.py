"""The test models do what they say: compute, count, fail when told to, stream and stop."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onward
from onward.errors import ExecutionError, MissingInput, TooLarge, WrongDatatype
from onward.execute.backend import Batched, Streaming
from onward.execute.onnx import OnnxBackend
from onward.package.manifest import load_manifest
from onward.testing import EchoBackend, ScaleBackend, scale_graph, tiny_package
from onward.types import CancelToken, TensorSpec


def column(*values: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"x": np.array(values, np.float32)[:, None]}


def test_scale_computes_and_counts_runs_rows_and_the_largest_batch() -> None:
    backend = ScaleBackend(scale=2.0, offset=1.0)
    assert isinstance(backend, Batched)
    np.testing.assert_array_equal(backend.run(column(1, 2), ["y"])[0], [[3.0], [5.0]])
    backend.run(column(1, 2, 3), ["y"])
    assert (backend.runs, backend.rows, backend.largest_batch) == (2, 5, 3)


def test_scale_fails_the_batches_that_hold_a_chosen_row_and_no_other() -> None:
    backend = ScaleBackend(fails=lambda row: bool(row[0] == 7))
    with pytest.raises(ExecutionError, match="row 1"):
        backend.run(column(1, 7), ["y"])
    backend.run(column(1, 6), ["y"])
    assert backend.runs == 2


def test_scale_refuses_names_it_does_not_know_and_runs_after_close() -> None:
    backend = ScaleBackend()
    with pytest.raises(ExecutionError, match="takes x and gives y"):
        backend.run(column(1), ["z"])
    backend.close()
    with pytest.raises(ExecutionError, match="closed"):
        backend.run(column(1), ["y"])


def test_echo_streams_the_words_and_says_at_the_end_how_many_there_were() -> None:
    backend = EchoBackend()
    assert isinstance(backend, Streaming)
    item = {"text": "to be or not"}
    assert backend.admit(item).prompt_tokens == 4
    *deltas, end = backend.stream(item, CancelToken())
    assert "".join(event.text for event in deltas) == "to be or not"
    assert {event.kind for event in deltas} == {"delta"}
    assert (end.kind, end.attributes) == ("end", {"prompt_tokens": 4, "tokens": 4, "finish": "stop"})
    assert (backend.admitted, backend.streamed, backend.cancelled) == (1, 4, 0)


def test_echo_gives_no_word_after_cancel() -> None:
    backend = EchoBackend()
    cancel = CancelToken()
    stream = backend.stream({"text": "one two three"}, cancel)
    assert next(stream).text == "one "
    cancel.cancel()
    rest = list(stream)
    assert [event.kind for event in rest] == ["end"]
    assert rest[0].attributes["finish"] == "cancel"
    assert (backend.streamed, backend.cancelled) == (1, 1)


def test_echo_stops_within_one_step_of_a_cancel_from_another_thread() -> None:
    backend = EchoBackend(delay_s=0.02)
    cancel = CancelToken()
    stream = backend.stream({"text": "word " * 10_000}, cancel)
    next(stream)
    threading.Timer(0.05, cancel.cancel).start()
    assert sum(event.kind == "delta" for event in stream) < 100


@pytest.mark.parametrize(
    ("item", "error"), [({}, MissingInput), ({"text": b"x"}, WrongDatatype), ({"text": "a b c d"}, TooLarge)]
)
def test_echo_admits_only_texts_within_its_limit(item: dict[str, object], error: type[Exception]) -> None:
    backend = EchoBackend(max_tokens=3)
    with pytest.raises(error):
        backend.admit(item)
    assert backend.admitted == 0


@settings(deadline=None, max_examples=20)
@given(
    scale=st.floats(-100, 100, width=32),
    offset=st.floats(-100, 100, width=32),
    features=st.sampled_from([1, 3, 127, 128, 300]),
    rows=st.integers(1, 5),
)
def test_the_hand_written_graph_computes_what_the_scale_backend_computes(
    tmp_path_factory: pytest.TempPathFactory, scale: float, offset: float, features: int, rows: int
) -> None:
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    file.write_bytes(scale_graph(scale=scale, offset=offset, features=features))
    graph = OnnxBackend(file)
    assert graph.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, features)),)
    assert graph.outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, features)),)
    feeds = {"x": np.random.default_rng(0).normal(size=(rows, features)).astype(np.float32)}
    expected = ScaleBackend(scale=scale, offset=offset).run(feeds, ["y"])[0]
    np.testing.assert_allclose(graph.run(feeds, ["y"])[0], expected, rtol=1e-6, atol=1e-6)


def test_the_hand_written_graph_is_valid_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(
        onnx.load_model_from_string(scale_graph(scale=2.0, offset=1.0, features=3)), full_check=True
    )


def test_a_tiny_package_opens_passes_its_example_and_answers(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny" / "1.0.0")
    pipeline = onward.open(folder)
    assert pipeline.check_examples() == 1
    result = pipeline({"x": [1.0, 2.0, 3.0]})
    np.testing.assert_allclose(result.tensors["y"], [[3.0, 5.0, 7.0]])
    pipeline.close()


def test_a_tiny_package_without_lock_holds_manifest_model_and_example(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path, name="other", version="2.1", features=2, lock=False)
    assert sorted(path.name for path in folder.iterdir()) == ["examples.jsonl", "model.onnx", "onward.toml"]
    manifest = load_manifest(folder)
    assert (manifest.package.name, manifest.package.version) == ("other", "2.1")
    assert manifest.inputs[0].shape == (2,)
