"""A bundle names every file by its digest, and holds what a browser needs to answer, and no more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from onward.errors import NotForEdge
from onward.package.package import Package, open_package
from onward.runners.edge.web import bundle
from onward.runners.edge.web.bundle import check_bundle, read_index, write_bundle, write_index
from onward.testing import tiny_package
from tests.acceptance.conftest import write_loan, write_shade


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the place of the two libraries: what is in them is of no matter here."""
    folder = tmp_path / "library"
    (folder / "dist").mkdir(parents=True)
    for name in (*bundle._RUNTIME, *bundle._WEBGPU, "tokenizers.min.mjs"):
        (folder / "dist" / name).write_text(name, "utf-8")
    monkeypatch.setattr(bundle, "library", lambda wanted, progress=None: folder)
    return folder


def written(package: Package, out: Path) -> Path:
    out.mkdir()
    write_bundle(package, out)
    return out


@pytest.mark.usefixtures("libraries")
def test_every_file_but_the_index_and_what_holds_its_digest_is_named_with_its_own(tmp_path: Path) -> None:
    write_loan(tmp_path / "loan")
    out = written(open_package(tmp_path / "loan"), tmp_path / "out")
    told = read_index(out)
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert files.keys() - {one["path"] for one in told["files"]} == {"bundle.json", "offline.js", "LICENCES.txt"}
    for one in told["files"]:
        assert hashlib.sha256(files[one["path"]].read_bytes()).hexdigest() == one["sha256"]
        assert files[one["path"]].stat().st_size == one["size_bytes"]
    assert f'"{told["digest"]}"' in (out / "offline.js").read_text("utf-8")


@pytest.mark.usefixtures("libraries")
def test_the_page_comes_first_and_the_package_when_it_is_opened(tmp_path: Path) -> None:
    write_shade(tmp_path / "shade")
    told = read_index(written(open_package(tmp_path / "shade"), tmp_path / "out"))
    when = {one["path"]: one["when"] for one in told["files"]}
    assert {when[name] for name in ("index.html", "page.js", "onward.js", "worker.js", "page.css")} == {"page"}
    assert {when[name] for name in ("package/model.onnx", "runtime/ort.wasm.min.mjs")} == {"package"}
    assert "runtime/ort.jspi.min.mjs" not in when  # nothing for a GPU in a model of a few bytes
    assert told["prepare_graph"] == "prepare.onnx"


@pytest.mark.usefixtures("libraries")
def test_the_same_package_gives_the_same_digest_and_another_certificate_another(tmp_path: Path) -> None:
    package = open_package(tiny_package(tmp_path / "tiny"))
    first, second = (written(package, tmp_path / name) for name in ("first", "second"))
    assert read_index(first) == read_index(second)
    write_index(package, second, webgpu=False, libraries=[], certificate={"inputs": 7})
    assert read_index(second)["certificate"] == {"inputs": 7}
    assert read_index(first)["digest"] != read_index(second)["digest"]


@pytest.mark.usefixtures("libraries")
def test_large_networks_bring_the_runtime_for_graphics_processors_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_WEBGPU_FROM_BYTES", 1)
    package = open_package(tiny_package(tmp_path / "tiny"))
    (tmp_path / "with").mkdir()
    facts = write_bundle(package, tmp_path / "with")
    assert facts.webgpu and facts.first_visit_bytes < facts.size_bytes
    assert {one["when"] for one in read_index(tmp_path / "with")["files"]} == {"page", "package", "webgpu"}
    (tmp_path / "without").mkdir()
    facts = write_bundle(package, tmp_path / "without", webgpu=False)
    assert not facts.webgpu and facts.first_visit_bytes == facts.size_bytes


def test_an_example_s_file_lies_beside_its_record(tmp_path: Path, libraries: Path) -> None:
    write_shade(tmp_path / "shade")
    out = written(open_package(tmp_path / "shade"), tmp_path / "out")
    example = json.loads((out / "package" / "examples.json").read_text("utf-8"))[0]
    assert (out / "package" / example["input"]["image"]["file"]).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("datatype", ["FP16"])
def test_what_browsers_have_no_numbers_for_is_refused(datatype: str, tmp_path: Path) -> None:
    package = open_package(tiny_package(tmp_path / "tiny"))
    from dataclasses import replace

    field = replace(package.manifest.inputs[0], datatype=datatype)
    changed = replace(package, manifest=replace(package.manifest, inputs=(field,)))
    with pytest.raises(NotForEdge, match=datatype):
        check_bundle(changed)
