from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import ManifestError
from onward.package.manifest import (
    Batching,
    Catalogue,
    DecodeImage,
    Execute,
    GenerateGraph,
    Labels,
    Limits,
    Manifest,
    ManifestProblems,
    Named,
    PackageInfo,
    PrepareGraph,
    Table,
    Tokenize,
    dump_manifest,
    load_manifest,
    parse_manifest,
)
from onward.package.toml_lines import toml_lines
from onward.types import Field

HEAD = """format = 1
[package]
name = "fraud"
version = "1.0.0"
"""
INPUT = """[[input]]
name = "Amount"
datatype = "FP32"
"""
OUTPUT = """[[output]]
name = "probability"
datatype = "FP32"
"""
BASE = HEAD + INPUT + OUTPUT


def problem(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert not isinstance(caught.value, ManifestProblems), str(caught.value)
    return caught.value


def test_a_minimal_manifest_has_the_defaults_of_the_reference() -> None:
    manifest = parse_manifest(BASE)
    assert manifest.package == PackageInfo(name="fraud", version="1.0.0")
    assert manifest.inputs == (Field(name="Amount", datatype="FP32"),)
    assert manifest.execute == Execute(backend="onnx", file="model.onnx", threads=0, instances=1)
    assert manifest.batching == Batching(max_batch_size=64, max_queue_delay_us=0, mode="throughput")
    assert manifest.limits == Limits(body_bytes=8 << 20, rows=1024, deadline_ms=10_000, queue_rows=2048)


def test_columns_of_a_table_default_to_all_inputs_in_order() -> None:
    text = HEAD + INPUT + INPUT.replace("Amount", "Time") + OUTPUT + '[[prepare]]\nstep = "table"\n'
    assert parse_manifest(text).prepare == (Table(columns=("Amount", "Time")),)


CASES: list[tuple[str, str, str, str, str]] = [
    # text, place, part of the message, what would be right, what was found
    (BASE.replace("format = 1\n", ""), "onward.toml: format", "missing", "format = 1", ""),
    (BASE.replace("format = 1", "format = 2"), "onward.toml:1: format", "not a format", "1", "2"),
    (BASE.replace('"fraud"', '"../fraud"'), "onward.toml:3: package.name", "not allowed", "lower-case", '"../fraud"'),
    (BASE.replace('"1.0.0"', '"v1"'), "onward.toml:4: package.version", "not allowed", "dotted numbers", '"v1"'),
    (BASE.replace('name = "fraud"\n', ""), "onward.toml:2: package.name", "missing", "lower-case", ""),
    (BASE.replace('name = "fraud"', "name = 7"), "onward.toml:3: package.name", "wrong type", "lower-case", "7"),
    (
        BASE.replace('"FP32"', '"FP31"', 1),
        "onward.toml:7: input[0].datatype",
        "not allowed",
        "FP32",
        'did you mean "FP32"?',
    ),
    (BASE + 'unit = "EUR"\n', "onward.toml:11: output[0].unit", "unknown key", "units", 'did you mean "units"?'),
    (BASE + "[bathing]\n", "onward.toml:11: bathing", "unknown key", "batching", 'did you mean "batching"?'),
    (HEAD + OUTPUT, "onward.toml: input", "missing", "[[input]]", ""),
    (BASE.replace("[[output]]", "[output]"), "onward.toml:8: output", "not an array of tables", "[[output]]", "table"),
    ("execute = 3\n" + BASE, "onward.toml:1: execute", "not a table", "[execute]", "3"),
    (BASE + "shape = [2,\n 0]\n", "onward.toml:12: output[0].shape[1]", "not a size", "from 1 up", "0"),
    (BASE + "shape = 2\n", "onward.toml:11: output[0].shape", "wrong type", "array of sizes", "2"),
    (BASE + "on_request = 1\n", "onward.toml:11: output[0].on_request", "wrong type", "true or false", "1"),
    (BASE + INPUT, "onward.toml:12: input[1].name", "given twice", "different", '"Amount"'),
    (
        BASE + "[batching]\nmax_batch_size = 0\n",
        "onward.toml:12: batching.max_batch_size",
        "out of range",
        "from 1",
        "0",
    ),
    (
        BASE + '[execute]\nbackend = "llama"\nfile = "m.gguf"\n[batching]\nmode = "invariant"\n',
        "onward.toml:15: batching.mode",
        "not with this backend",
        "throughput",
        "inv",
    ),
    (BASE + '[batching]\nmode = "fast"\n', "onward.toml:12: batching.mode", "not allowed", "invariant", '"fast"'),
    (BASE + '[batching]\npad = { ids = "x" }\n', "onward.toml:12: batching.pad.ids", "wrong type", "number", '"x"'),
    (BASE + "[limits]\nrows = 1.5\n", "onward.toml:12: limits.rows", "wrong type", "integer", "1.5"),
    (BASE + "[limits]\naudio_s = nan\n", "onward.toml:12: limits.audio_s", "wrong type", "finite", "nan"),
    (BASE + "[limits]\naudio_s = -1\n", "onward.toml:12: limits.audio_s", "out of range", "above 0", "-1"),
    (BASE + '[execute]\nfile = "../m.onnx"\n', "onward.toml:12: execute.file", "inside the package", "relative", ".."),
    (BASE + '[execute]\nfile = ".hidden"\n', "onward.toml:12: execute.file", "inside the package", "hidden", ".hidden"),
    (BASE + '[execute]\nbackend = "python"\n', "onward.toml:11: execute.entry", "missing", "module:Class", ""),
    (BASE + '[execute]\nentry = "a:B"\n', "onward.toml:12: execute.entry", "only for the python", "python", ""),
    (BASE + '[[prepare]]\nstep = "tabel"\n', "onward.toml:12: prepare[0].step", "not allowed", "table", '"table"'),
    (
        BASE + '[[prepare]]\nstep = "table"\ncolumns = ["Amount", "Amonut"]\n',
        "onward.toml:13: prepare[0].columns[1]",
        "no such input",
        "Amount",
        'did you mean "Amount"?',
    ),
    (
        BASE + '[[prepare]]\nstep = "tokenize"\ninput = "Amount"\n',
        "onward.toml:13: prepare[0].input",
        "does not fit",
        'content = "text"',
        "value",
    ),
    (
        BASE + '[[prepare]]\nstep = "graph"\n[[prepare]]\nstep = "table"\n',
        "onward.toml:11: prepare[0]",
        "last step",
        "host steps",
        "",
    ),
    (
        BASE + '[[generate]]\nstep = "named"\ninput = "a"\nnames = ["b"]\n[[generate]]\nstep = "graph"\n',
        "onward.toml:15: generate[1]",
        "first step",
        "the graph",
        "",
    ),
    (
        BASE + '[[generate]]\nstep = "labels"\nscores = "s"\nindices = "s"\n',
        "onward.toml:14: generate[0].indices",
        "same",
        "another",
        "s",
    ),
    (
        BASE + '[[generate]]\nstep = "catalogue"\nids = "i"\nreasons = ["popular"]\n',
        "onward.toml:11: generate[0].reason",
        "missing",
        "both or neither",
        "",
    ),
    (
        HEAD + INPUT + "minimum = 2\nmaximum = 1\n" + OUTPUT,
        "onward.toml:9: input[0].maximum",
        "below",
        "at least",
        "1",
    ),
    (
        HEAD + INPUT + 'content = "image"\n' + OUTPUT,
        "onward.toml:7: input[0].datatype",
        "does not fit",
        "BYTES",
        "FP32",
    ),
    (
        HEAD + INPUT + 'categories = ["a"]\n' + OUTPUT,
        "onward.toml:7: input[0].datatype",
        "does not fit",
        "BYTES",
        "FP32",
    ),
    (HEAD + INPUT + 'default = "x"\n' + OUTPUT, "onward.toml:8: input[0].default", "does not fit", "number", '"x"'),
    (HEAD + INPUT + "minimum = 1\ndefault = 0\n" + OUTPUT, "onward.toml:9: input[0].default", "fit", "from 1.0", "0"),
    (
        HEAD + INPUT.replace("FP32", "INT64") + "required = false\n" + OUTPUT,
        "onward.toml:8: input[0].required",
        "needs a default",
        "a default",
        "",
    ),
    (BASE.replace("[package]", "[package"), "onward.toml:2", "not valid TOML", "TOML", ""),
    (BASE + 'name = "again"\n', "onward.toml:11", "not valid TOML", "TOML", ""),
]


@pytest.mark.parametrize(("text", "where", "message", "expected", "found"), CASES)
def test_an_error_names_file_line_key_what_was_found_and_what_would_be_right(
    text: str, where: str, message: str, expected: str, found: str
) -> None:
    error = problem(text)
    assert error.where == where
    assert message in error.message
    assert expected in error.expected
    assert found in error.found


def test_several_problems_are_reported_together_with_a_line_each() -> None:
    text = BASE.replace('"fraud"', '"Fraud"').replace('"FP32"', '"float"')
    with pytest.raises(ManifestProblems) as caught:
        parse_manifest(text)
    wheres = {problem.where for problem in caught.value.problems}
    assert wheres == {
        "onward.toml:3: package.name",
        "onward.toml:7: input[0].datatype",
        "onward.toml:10: output[0].datatype",
    }
    assert "onward.toml:10" in str(caught.value)


def test_nesting_without_end_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ManifestError):
        parse_manifest("x = " + "[" * 50_000)


def test_a_text_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "onward.toml").write_bytes(b"format = 1\n# \xff\n")
    with pytest.raises(ManifestError, match="UTF-8") as caught:
        load_manifest(tmp_path)
    assert caught.value.where.endswith("onward.toml:2")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(tmp_path)


def test_windows_line_ends_do_not_move_lines() -> None:
    error = problem(BASE.replace('"1.0.0"', '"x"').replace("\n", "\r\n"))
    assert error.where == "onward.toml:4: package.version"


def test_lines_are_right_inside_long_texts_arrays_and_inline_tables() -> None:
    text = '# [no]\na = """\n[x]\n"""\n"b c" = { d = 1, e = [1, # ]\n 2] }\n[[t]]\n[t.u]\nv.w = \'x\'\n[[t]]\ny = 1\n'
    lines = toml_lines(text)
    assert lines["a"] == 2
    assert (lines["b c"], lines["b c.d"], lines["b c.e"], lines["b c.e[0]"], lines["b c.e[1]"]) == (5, 5, 5, 5, 6)
    assert (lines["t[0]"], lines["t[0].u"], lines["t[0].u.v.w"], lines["t[1]"], lines["t[1].y"]) == (7, 8, 9, 10, 11)
    assert "x" not in lines and "no" not in lines


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SHAPES = st.lists(st.one_of(st.just(-1), st.integers(1, 200)), max_size=4).map(tuple)


@st.composite
def number_fields(draw: st.DrawFn, name: str) -> Field:
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    default = draw(st.none() | st.floats(low, high))
    return Field(
        name=name,
        datatype=draw(st.sampled_from(["FP16", "FP32", "FP64"])),
        minimum=low,
        maximum=high,
        default=default,
        required=draw(st.booleans()),
        units=draw(TEXTS),
        private=draw(st.booleans()),
        description=draw(TEXTS),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, min_size=3, max_size=6, unique=True))
    categories = tuple(draw(st.lists(NAMES, min_size=1, max_size=5, unique=True)))
    text = Field(name=names[0], datatype="BYTES", content="text")
    category = Field(name=names[1], datatype="BYTES", categories=categories, default=categories[0])
    numbers = [draw(number_fields(name)) for name in names[2:]]
    columns = (names[1], *names[2:])
    prepare: list[Any] = [Table(columns=columns, output="t", unknown="nan"), Tokenize(input=names[0], max_tokens=7)]
    if draw(st.booleans()):
        prepare.append(PrepareGraph(file="graphs/prepare.onnx"))
    generate: list[Any] = [GenerateGraph()] if draw(st.booleans()) else []
    generate += [Labels(scores="s", indices="i", top_k=3), Named(input="v", names=columns)]
    generate.append(Catalogue(ids="i", reason="r", reasons=("popular", "like {title}"), because="b", top_k=7))
    outputs = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return Manifest(
        package=PackageInfo(name="a", version="1.2", task="tensor", licence=draw(TEXTS), description=draw(TEXTS)),
        inputs=(text, category, *numbers),
        outputs=tuple(
            Field(name=name, datatype="INT8", shape=draw(SHAPES), on_request=draw(st.booleans())) for name in outputs
        ),
        prepare=tuple(prepare),
        execute=Execute(threads=draw(st.integers(0, 64)), providers=("cuda", "cpu")),
        generate=tuple(generate),
        batching=Batching(
            max_batch_size=draw(st.integers(1, 64)),
            mode="throughput",
            pad=draw(st.dictionaries(NAMES, st.integers(-5, 5) | NUMBERS, max_size=3)),
        ),
        limits=Limits(rows=draw(st.integers(1, 10**6)), audio_s=draw(st.floats(0.5, 1e6))),
    )


@given(manifests())
def test_a_dumped_manifest_reads_back_equal(manifest: Manifest) -> None:
    assert parse_manifest(dump_manifest(manifest)) == manifest


def test_a_dumped_manifest_is_commented_and_names_the_image_step() -> None:
    manifest = Manifest(
        package=PackageInfo(name="a", version="1"),
        inputs=(Field(name="photo", datatype="BYTES", content="image"),),
        outputs=(Field(name="y", datatype="FP32"),),
        prepare=(DecodeImage(input="photo"), PrepareGraph()),
    )
    text = dump_manifest(manifest)
    assert text.startswith("# ") and "\n# Prepare" in text
    assert parse_manifest(text) == manifest


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_read_or_refused_with_a_manifest_error(text: str) -> None:
    try:
        parse_manifest(text)
    except ManifestError as error:
        assert error.where.startswith("onward.toml")


def test_infinite_bounds_are_refused() -> None:
    assert problem(HEAD + INPUT + "maximum = inf\n" + OUTPUT).where == "onward.toml:8: input[0].maximum"


def test_the_example_of_the_reference_is_valid() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "manifest.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert parse_manifest(example).prepare == (Table(columns=("amount", "country")),)
