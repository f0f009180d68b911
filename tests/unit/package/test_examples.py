from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import GoldenExampleFailed, PackageError
from onward.package import examples
from onward.package.examples import Example, check_example, differences, read_examples, write_examples
from onward.types import PackageId, Result


def read(tmp_path: Path, text: str) -> tuple[Example, ...]:
    (tmp_path / "examples.jsonl").write_text(text)
    return read_examples(tmp_path)


def test_binary_values_come_from_files_and_base64(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8")
    line = '{"input": {"a": {"file": "cat.jpg"}, "b": {"base64": "AQI="}, "c": 1}, "answer": {"label": "cat"}}\n'
    (example,) = read(tmp_path, line)
    assert example.input == {"a": b"\xff\xd8", "b": b"\x01\x02", "c": 1}
    assert example.name == "line 1"


def test_a_package_without_examples_has_none(tmp_path: Path) -> None:
    assert read_examples(tmp_path) == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an object"),
        ('{"input": {}}', "incomplete"),
        ('{"answer": {"a": 1}}', "incomplete"),
        ('{"input": 1, "answer": {"a": 1}}', "input is not an object"),
        ('{"input": {}, "answer": {"a": 1}, "tolerence": 1}', 'did you mean "tolerance"'),
        ('{"input": {}, "answer": {"a": 1}, "tolerance": -1}', "tolerance is not"),
        ('{"input": {"a": {"file": "../x"}}, "answer": {"a": 1}}', "no such file"),
        ('{"input": {"a": {"file": "missing"}}, "answer": {"a": 1}}', "no such file"),
        ('{"input": {"a": {"base64": "?"}}, "answer": {"a": 1}}', "not valid base64"),
        ('{"input": {"a": {"url": "http://x"}}, "answer": {"a": 1}}', "not a binary value"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(PackageError) as caught:
        read(tmp_path, '{"input": {}, "answer": {"a": 1}}\n' + line)
    assert caught.value.where == "examples.jsonl:2" and message in str(caught.value)


def example(**promised: Any) -> Example:
    return Example(name="e", input={}, **promised)


def test_an_answer_within_the_tolerance_is_right() -> None:
    promised = example(answer={"a": 1.0, "b": {"c": ["x", 100.0]}, "n": None}, tolerance=0.01)
    assert differences(promised, {"a": 1.005, "b": {"c": ["x", 100.9], "more": 1}, "n": None}, {}) == []


def test_a_difference_names_example_output_amount_and_what_is_allowed() -> None:
    (found,) = differences(example(answer={"b": {"c": [1.0, 2.0]}}), {"b": {"c": [1.0, 2.5]}}, {})
    assert (found.example, found.output, found.expected, found.found) == ("e", "answer.b.c[1]", "2.0", "2.5")
    assert (found.difference, found.allowed) == (0.5, 2e-5)
    assert "differs by 0.5, allowed 2e-05" in str(found)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {}),
        ({"a": 1}, {"a": "1"}),
        ({"a": True}, {"a": 1.5}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": {}}, {"a": 1}),
    ],
)
def test_other_kinds_and_lengths_differ(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert len(differences(example(answer=expected), found, {})) == 1


def test_the_worst_element_of_a_tensor_is_named() -> None:
    tensors = {"y": np.array([[1.0, 2.1, 3.5]], dtype=np.float32)}
    (found,) = differences(example(tensors={"y": [1.0, 2.0, 3.0]}), {}, tensors)
    assert found.output == 'tensor "y"[2]' and found.difference == pytest.approx(0.5)


def test_tensors_may_be_written_with_or_without_the_row() -> None:
    tensors = {"y": np.array([[1.0, 2.0]], dtype=np.float32)}
    assert differences(example(tensors={"y": [[1.0, 2.0]]}), {}, tensors) == []
    assert differences(example(tensors={"y": [1.0, 2.0]}), {}, tensors) == []
    assert differences(example(tensors={"y": [1.0]}), {}, tensors)[0].expected == "shape [1]"
    assert differences(example(tensors={"z": [1.0]}), {}, tensors)[0].found == "y"


def test_not_a_number_equals_only_itself() -> None:
    tensors = {"y": np.array([[np.nan, 1.0]])}
    assert differences(example(tensors={"y": [float("nan"), 1.0]}), {}, tensors) == []
    assert len(differences(example(tensors={"y": [0.0, 1.0]}), {}, tensors)) == 1
    assert len(differences(example(tensors={"y": [float("nan"), float("nan")]}), {}, tensors)) == 1


def test_texts_are_compared_as_text() -> None:
    tensors = {"y": np.array([[b"a"]], dtype=object)}
    assert differences(example(tensors={"y": ["a"]}), {}, tensors) == []
    assert len(differences(example(tensors={"y": ["b"]}), {}, tensors)) == 1


def test_a_failed_example_is_an_error_of_its_own() -> None:
    package = PackageId(name="p", version="1", digest="")
    result = Result(answer={"label": "dog"}, tensors={}, package=package)
    with pytest.raises(GoldenExampleFailed, match="expected cat, found dog"):
        check_example(example(answer={"label": "cat"}), result)


@given(
    st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=5), st.binary(max_size=5), st.text(max_size=5)
)
def test_written_examples_read_back_and_match_themselves(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], data: bytes, text: str
) -> None:
    folder = tmp_path_factory.mktemp("examples")
    tensor = np.array(values, dtype=np.float32)
    made = Example(name="n", input={"x": tensor, "b": data, "t": text}, answer={"a": text}, tensors={"y": tensor})
    write_examples(folder, [made])
    (again,) = read_examples(folder)
    assert again.input == {"x": tensor.tolist(), "b": data, "t": text}
    assert differences(again, {"a": text}, {"y": tensor[None]}) == []


@pytest.mark.parametrize("name", ["../secret", "{folder}/secret", "link", "inner/../../secret"])
def test_a_file_outside_the_package_is_none_of_its_examples(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    line = json.dumps({"input": {"a": {"file": name.format(folder=tmp_path)}}, "answer": {"a": 1}})
    with pytest.raises(PackageError, match="no such file"):
        read(folder, line)


def test_examples_share_what_they_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"input": {"a": [1, 2, 3]}, "answer": {"a": 1}}) + "\n"
    monkeypatch.setattr(examples, "MAX_VALUES", 40)
    assert len(read(tmp_path, line * 3)) == 3
    with pytest.raises(PackageError, match="too many"):
        read(tmp_path, line * 30)
    (tmp_path / "large").write_bytes(bytes(1000))
    monkeypatch.setattr(examples, "MAX_FILE_BYTES", 2500)
    line = json.dumps({"input": {"a": {"file": "large"}}, "answer": {"a": 1}}) + "\n"
    assert len(read(tmp_path, line * 2)) == 2
    with pytest.raises(PackageError, match="too large"):
        read(tmp_path, line * 3)
