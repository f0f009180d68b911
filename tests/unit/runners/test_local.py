"""The local runner: how arguments become items, and how packages are found."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from onward.errors import InputError, MalformedBody, ModelNotFound, NotFound, PackageError
from onward.runners import local
from onward.testing import tiny_package
from onward.types import Blob, Decision, Field, PackageId, Result

NUMBER = Field(name="x", datatype="FP32")
TEXT = Field(name="text", datatype="BYTES", content="text")
IMAGE = Field(name="photo", datatype="BYTES", content="image")


def items(*arguments: str, field: Field) -> list[Any]:
    return [value for _, value in local.read_inputs(arguments, [field])]


def test_json_text_and_files_become_items(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(' {"x": 1}')
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}')
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "a.jpg").write_bytes(b"{not json")
    assert items('{"x": 1}', '[{"x": 1}, {"x": 2}]', "[1]", field=NUMBER) == [{"x": 1}, {"x": 1}, {"x": 2}, [1]]
    assert items(str(tmp_path / "a.json"), str(tmp_path / "a.jsonl"), field=NUMBER) == [{"x": 1}, {"x": 1}, {"x": 2}]
    assert items("hello", str(tmp_path / "a.txt"), field=TEXT) == [{"text": "hello"}] * 2
    assert items(str(tmp_path / "a.jpg"), field=IMAGE) == [{"photo": b"{not json"}]


def test_a_name_shows_where_an_item_came_from(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"x": 1}\n[{"x": 2}, {"x": 3}]')
    named = local.read_inputs([str(tmp_path / "a.jsonl")], [NUMBER])
    assert [name for name, _ in named] == ["a.jsonl:2", "a.jsonl:3[0]", "a.jsonl:3[1]"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_file_inside_json_is_base64(prefix: str) -> None:
    text = prefix + base64.b64encode(b"\x89PNG").decode()
    assert items(f'{{"photo": "{text}"}}', field=IMAGE) == [{"photo": b"\x89PNG"}]
    with pytest.raises(MalformedBody, match=r"^photo: .*base64"):
        items('{"photo": "../cat.png"}', field=IMAGE)


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(b'{"x": 1}')

    monkeypatch.setattr("sys.stdin", Standard)
    assert items("-", field=NUMBER) == [{"x": 1}]


@pytest.mark.parametrize("argument", ["hello", "x" * 5000, "a\0b"])
def test_text_for_a_package_of_numbers_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match="JSON with x"):
        items(argument, field=NUMBER)


def test_a_text_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(MalformedBody, match="UTF-8"):
        items(str(tmp_path / "a.txt"), field=TEXT)


def test_a_package_is_found_by_path_by_the_folder_of_its_versions_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound):
        local.find("tiny")
    one = tiny_package(Path("var/repository/tiny/1.9.0"), version="1.9.0")
    ten = tiny_package(Path("var/repository/tiny/1.10.0"), version="1.10.0")
    assert local.find(str(one)) == one
    assert local.find("var/repository/tiny").resolve() == ten.resolve()
    assert local.find("tiny") == ten
    assert local.find("tiny==1.9.0") == one
    for name in ("tiny==2", "other", "../tiny", ""):
        with pytest.raises(ModelNotFound):
            local.find(name)


def test_a_folder_that_is_not_packed_says_how_to_pack_it(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="onward pack"):
        local.find(str(tiny_package(tmp_path / "p", lock=False)))


def test_inspect_runs_no_code_of_a_python_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onward.package.assembly import assemble

    folder = tiny_package(tmp_path / "p", lock=False)
    (folder / "model.onnx").unlink()
    (folder / "examples.jsonl").unlink()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: ...\n")
    manifest = folder / "onward.toml"
    text = manifest.read_text("utf-8").replace('backend = "onnx"', 'backend = "python"')
    manifest.write_text(text.replace('file = "model.onnx"', 'entry = "code:Model"'), "utf-8")
    assemble(folder)
    local.inspect(str(folder), as_json=True)
    assert '"entry":"code:Model"' in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_a_result_is_told_as_http_tells_it_with_its_decision_beside_the_answer() -> None:
    identity = PackageId(name="p", version="1", digest="0" * 64)
    answer = {"sound": Blob(data=b"RIFF", media_type="audio/wav")}
    decision = Decision(outcome="approve", rule="first", reasons=("small",), arguments={"limit": 3})
    told = local.plain_result("in", Result(answer=answer, tensors={}, package=identity, decision=decision))
    assert json.loads(json.dumps(told)) == {
        "input": "in",
        "answer": {"sound": {"media_type": "audio/wav", "base64": "UklGRg=="}},
        "decision": {"outcome": "approve", "rule": "first", "reasons": ["small"], "arguments": {"limit": 3}},
        "package": "p",
        "version": "1",
    }


def test_a_txt_file_is_text_whatever_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('{"text": "other"}\n')
    assert items(str(tmp_path / "a.txt"), field=TEXT) == [{"text": '{"text": "other"}'}]
    for field in (NUMBER, IMAGE):
        with pytest.raises(InputError):
            items(str(tmp_path / "a.txt"), field=field)


def test_text_that_only_begins_as_json_is_text_where_the_package_takes_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "note.md").write_text("[a link](there)\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[b].txt").write_text("hello")
    texts = [item["text"] for item in items("[sigh] why", "{", "", "note.md", "[b].txt", field=TEXT)]
    assert texts == ["[sigh] why", "{", "", "[a link](there)", "hello"]
    assert items('{"text": "a"}', field=TEXT) == [{"text": "a"}]
    with pytest.raises(MalformedBody, match="JSON"):
        items("[sigh] why", field=NUMBER)
