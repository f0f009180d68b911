"""A GGUF file becomes the draft of a package by what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onward.errors import PackageError
from onward.package.importers.draft import Draft
from onward.package.importers.gguf import draft_of_gguf
from onward.package.records import PackageInfo
from tests.unit.package.test_gguf import entry, gguf, text, written

ASKED = PackageInfo(name="mine", version="2.0.0", task="", licence="", description="")


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def model(folder: Path, *, context_tokens: int = 2048, licence: str = "apache-2.0", name: str = "Tiny") -> Path:
    return written(folder, gguf(
        entry("general.architecture", 8, text("llama")), entry("general.name", 8, text(name)),
        entry("general.license", 8, text(licence)), entry("llama.context_length", 4, number(context_tokens)),
        entry("tokenizer.ggml.model", 8, text("gpt2")),
    ))  # fmt: skip


def drafted(file: Path, info: PackageInfo = ASKED) -> Draft:
    return draft_of_gguf(file, info)


def test_name_version_context_and_licence_are_in_the_manifest(tmp_path: Path) -> None:
    draft = drafted(model(tmp_path))
    package = draft.manifest.package
    assert (package.name, package.version, package.task) == ("mine", "2.0.0", "text-generation")
    assert package.licence == "Apache-2.0"
    assert package.description == "A language model: Tiny, llama."
    assert (draft.manifest.execute.backend, draft.manifest.execute.context_tokens) == ("llama", 2048)
    assert draft.files["model.gguf"] == tmp_path / "model.gguf"  # copied, not read


@pytest.mark.parametrize(("trained", "taken"), [(512, 512), (4096, 4096), (131_072, 4096), (0, 4096)])
def test_a_long_context_is_not_taken_whole(tmp_path: Path, trained: int, taken: int) -> None:
    assert drafted(model(tmp_path, context_tokens=trained)).manifest.execute.context_tokens == taken


@pytest.mark.parametrize(("said", "taken"), [("mit", "MIT"), ("GPL-3.0", "GPL-3.0-only"), ("llama3", "llama3")])
def test_a_licence_is_named_as_spdx_does_where_it_is_known(tmp_path: Path, said: str, taken: str) -> None:
    assert drafted(model(tmp_path, licence=said)).manifest.package.licence == taken


def test_what_a_person_says_comes_before_what_the_file_says(tmp_path: Path) -> None:
    info = PackageInfo(name="mine", version="1", task="", licence="Mine-1.0", description="My words.")
    package = drafted(model(tmp_path), info).manifest.package
    assert (package.licence, package.description) == ("Mine-1.0", "My words.")


def test_words_of_a_file_cannot_change_the_manifest(tmp_path: Path) -> None:
    name = 'x"\n[limits]\nrows = 1\n[execute]\nbackend = "python"'
    draft = drafted(model(tmp_path, name=name))
    assert draft.manifest.execute.backend == "llama"
    assert draft.manifest.package.description == f"A language model: {name}, llama."


def test_the_golden_example_asks_for_any_answer(tmp_path: Path) -> None:
    data = drafted(model(tmp_path)).files["examples.jsonl"]
    assert isinstance(data, bytes)
    assert json.loads(data)["answer"] == {}


def test_weights_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, gguf(entry("general.architecture", 8, text("clip"))))
    with pytest.raises(PackageError, match="no tokenizer"):
        drafted(file)


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        drafted(written(tmp_path, b"PK\x03\x04 something else"))
