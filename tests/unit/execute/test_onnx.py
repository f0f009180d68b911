"""Execution providers: chosen at load from what this machine's onnxruntime has, refused where it has none of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from onward.errors import ManifestError, MissingProvider
from onward.execute import onnx as module
from onward.execute.onnx import OnnxBackend, available_providers
from onward.package.assembly import assemble
from onward.package.manifest import load_manifest
from onward.pipeline import Pipeline
from onward.testing import scale_graph, tiny_package


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(scale_graph(scale=2.0, offset=1.0, features=3))
    return file


def package(folder: Path, execute: str) -> Path:
    tiny_package(folder, lock=False)
    manifest = folder / "onward.toml"
    manifest.write_text(with_execute(manifest.read_text(), execute))
    assemble(folder)
    return folder


def with_execute(manifest: str, lines: str) -> str:
    before, _, after = manifest.partition("[execute]\n")
    return f"{before}[execute]\n{lines}\n" + after[after.find("\n[") :]


class CudaWithoutDevice:
    """onnxruntime as it is where CUDA was built in and no device is found: the session has the processor only."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, file: str, options: Any, *, providers: list[str]) -> ort.InferenceSession:
        self.asked = providers
        return _SESSION(file, options, providers=["CPUExecutionProvider"])


_SESSION = ort.InferenceSession


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> CudaWithoutDevice:
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = CudaWithoutDevice()
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: built)
    monkeypatch.setattr(module.ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(module.ort, "InferenceSession", session)
    return session


def test_a_provider_that_the_machine_lacks_is_passed_over_and_told(
    graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "onward.execute"):
        assert OnnxBackend(graph, providers=("cuda", "cpu")).providers == ("cpu",)
    assert "not on this machine: cuda; in use: cpu" in caplog.text


def test_without_any_of_its_providers_a_package_is_refused_with_what_there_is(graph: Path) -> None:
    with pytest.raises(MissingProvider) as refused:
        OnnxBackend(graph, providers=("cuda", "tensorrt"))
    assert refused.value.code == "PROVIDER_MISSING"
    assert refused.value.expected == "one of cpu"
    assert refused.value.found == "cuda, tensorrt"


def test_models_elsewhere_are_no_provider(graph: Path) -> None:
    assert "AzureExecutionProvider" in ort.get_available_providers()
    assert "azure" not in available_providers()
    with pytest.raises(MissingProvider):
        OnnxBackend(graph, providers=("azure",))


def test_a_provider_without_a_device_gives_way_to_the_next_of_the_manifest(
    graph: Path, no_device: CudaWithoutDevice
) -> None:
    assert OnnxBackend(graph, providers=("cuda", "cpu")).providers == ("cpu",)
    assert no_device.asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_the_processor_is_no_stand_in_where_the_manifest_does_not_name_it(
    graph: Path, no_device: CudaWithoutDevice
) -> None:
    with pytest.raises(MissingProvider, match="no device"):
        OnnxBackend(graph, providers=("cuda",))


def test_a_package_says_which_of_its_providers_it_runs_on(tmp_path: Path) -> None:
    with Pipeline.open(package(tmp_path / "p", 'providers = ["cuda", "cpu"]')) as pipeline:
        assert pipeline.manifest.execute.providers == ("cuda", "cpu")
        assert pipeline.providers == ("cpu",)


def test_a_package_that_needs_a_missing_provider_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(MissingProvider, match="cuda"):
        Pipeline.open(package(tmp_path / "p", 'providers = ["cuda"]'))


def test_providers_are_for_onnx_graphs_only(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "p", lock=False)
    manifest = folder / "onward.toml"
    manifest.write_text(with_execute(manifest.read_text(), 'backend = "python"\nentry = "m:C"\nproviders = ["cuda"]'))
    with pytest.raises(ManifestError, match="only for the onnx backend"):
        load_manifest(folder)
