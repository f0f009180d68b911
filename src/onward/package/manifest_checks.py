"""What a manifest must keep to beyond the types of its keys: names that meet, steps in order, ranges that make sense.

Looks at the records only; notes every problem in the document they were read from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from onward.package.features import check_profile
from onward.package.manifest_sampling import SETTABLE
from onward.package.manifest_stages import check_stages
from onward.package.records import (
    Catalogue,
    DecodeImage,
    Entities,
    GenerateGraph,
    JsonText,
    Labels,
    Manifest,
    PrepareGraph,
    Prose,
    Table,
    Tokenize,
)
from onward.package.sections import Document, shown, suggestion
from onward.types import NUMPY_OF_DATATYPE, Field


def check_manifest(manifest: Manifest, document: Document) -> None:
    """Note in `document` whatever in the manifest contradicts itself."""
    _check_different(document, "input", [field.name for field in manifest.inputs])
    _check_different(document, "output", [field.name for field in manifest.outputs])
    in_table = {column for step in manifest.prepare if isinstance(step, Table) for column in step.columns}
    # The entity becomes no tensor, and what a feature always fills is never missing.
    needs_no_default = {feature.name for feature in manifest.features if feature.default is not None}
    if manifest.profile is not None:
        needs_no_default.add(manifest.profile.entity)
    if manifest.execute.backend == "llama":
        needs_no_default.update(SETTABLE)
    for index, field in enumerate(manifest.inputs):
        missing_is_nan = field.name in in_table
        free = field.name in needs_no_default
        _check_input(document, f"input[{index}]", field, missing_is_nan=missing_is_nan, needs_no_default=free)
    for index, field in enumerate(manifest.outputs):
        _check_range(document, f"output[{index}]", field)
        _check_whole(document, f"output[{index}]", field)
    if manifest.batching.mode == "invariant" and manifest.execute.backend not in ("onnx", "python"):
        expected = '"throughput": this engine forms its batches by itself'
        document.problem("batching.mode", "not with this backend", expected=expected, found='"invariant"')
    _check_prepare(manifest, document)
    _check_generate(manifest, document)
    check_profile(manifest, document)
    check_stages(manifest, document)


def _check_different(document: Document, table: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            document.problem(f"{table}[{index}].name", "given twice", expected="different names", found=f'"{name}"')


def _check_input(document: Document, path: str, field: Field, *, missing_is_nan: bool, needs_no_default: bool) -> None:
    if field.datatype not in NUMPY_OF_DATATYPE:
        return
    numeric = field.datatype not in ("BYTES", "BOOL")
    _check_whole(document, path, field)
    if field.categories and (field.datatype != "BYTES" or field.shape):
        expected = 'datatype = "BYTES" and shape = [] with categories'
        document.problem(f"{path}.datatype", "does not fit the categories", expected=expected, found=field.datatype)
    _check_range(document, path, field)
    if field.default is not None:
        _check_default(document, f"{path}.default", field, numeric=numeric)
    elif needs_no_default or field.required:
        pass
    elif not field.datatype.startswith("FP") and not (field.categories and missing_is_nan):
        expected = "a default; only FP16, FP32, FP64 and categories of a table can be missing (NaN)"
        document.problem(f"{path}.required", "an optional input needs a default", expected=expected)


def _check_whole(document: Document, path: str, field: Field) -> None:
    """Text, pictures and sound are one value of bytes."""
    if field.content != "value" and (field.datatype != "BYTES" or field.shape):
        expected = f'datatype = "BYTES" and shape = [] with content = "{field.content}"'
        found = f'"{field.datatype}", shape {list(field.shape)}'
        document.problem(f"{path}.datatype", "does not fit the content", expected=expected, found=found)


def _check_range(document: Document, path: str, field: Field) -> None:
    numeric = field.datatype not in ("BYTES", "BOOL")
    for key in ("minimum", "maximum"):
        if getattr(field, key) is not None and not numeric:
            document.problem(f"{path}.{key}", "only for numbers", expected="a numeric datatype", found=field.datatype)
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        expected = f"at least the minimum, {field.minimum}"
        document.problem(f"{path}.maximum", "below the minimum", expected=expected, found=str(field.maximum))


def _check_default(document: Document, key: str, field: Field, *, numeric: bool) -> None:
    default = field.default
    if field.datatype == "BYTES":
        fits, expected = isinstance(default, str), "text"
        if field.categories:
            fits, expected = default in field.categories, f"one of {', '.join(field.categories)}"
    elif field.datatype == "BOOL":
        fits, expected = isinstance(default, bool), "true or false"
    else:
        fits, expected = _number_fits(default, field)
    if not fits:
        document.problem(key, "does not fit the input", expected=expected, found=shown(default))


def _number_fits(default: float | str | bool | None, field: Field) -> tuple[bool, str]:
    if field.datatype.startswith("FP"):
        lowest, highest, kind = float("-inf"), float("inf"), "a number"
        fits = isinstance(default, int | float) and not isinstance(default, bool)
    else:
        info = np.iinfo(NUMPY_OF_DATATYPE[field.datatype])
        lowest, highest, kind = float(info.min), float(info.max), "an integer"
        fits = isinstance(default, int) and not isinstance(default, bool) and info.min <= default <= info.max
    if field.minimum is not None:
        lowest = max(lowest, field.minimum)
    if field.maximum is not None:
        highest = min(highest, field.maximum)
    if np.isfinite(lowest) or np.isfinite(highest):
        kind += f" from {lowest} to {highest}"
    return fits and isinstance(default, int | float) and lowest <= default <= highest, kind


def _check_prepare(manifest: Manifest, document: Document) -> None:
    fields = {field.name: field for field in manifest.inputs}
    made: list[str] = []
    for index, step in enumerate(manifest.prepare):
        path = f"prepare[{index}]"
        if isinstance(step, PrepareGraph):
            if index != len(manifest.prepare) - 1:
                document.problem(
                    path, "a graph must be the last step of prepare", expected="host steps, then the graph"
                )
        elif isinstance(step, Table):
            _check_columns(document, path, step, fields)
            _check_made(document, f"{path}.output", [step.output], made)
        elif isinstance(step, Tokenize):
            _check_content(document, f"{path}.input", step.input, "text", fields)
            if len(step.outputs) > 3:
                expected = "one to three tensors: token ids, mask, token types"
                document.problem(f"{path}.outputs", "too many tensors", expected=expected, found=str(len(step.outputs)))
            _check_made(document, f"{path}.outputs", step.outputs, made)
        elif isinstance(step, DecodeImage):
            _check_content(document, f"{path}.input", step.input, "image", fields)
            _check_made(document, f"{path}.output", [step.output], made)


def _check_made(document: Document, key: str, outputs: Iterable[str], made: list[str]) -> None:
    for output in outputs:
        if output in made:
            document.problem(key, "another step makes a tensor of this name", expected="another name", found=output)
        made.append(output)


def _check_columns(document: Document, path: str, step: Table, fields: dict[str, Field]) -> None:
    written = f"{path}.columns" in document.lines
    for index, column in enumerate(step.columns):
        key = f"{path}.columns[{index}]" if written else path
        field = fields.get(column)
        if field is None:
            document.problem(
                key, "no such input", expected=_one_of(fields), found=f'"{column}"{suggestion(column, fields)}'
            )
        elif field.shape or field.content != "value" or (field.datatype == "BYTES" and not field.categories):
            expected = "inputs with a single number, boolean or category"
            found = f'"{column}" ({field.datatype}, shape {list(field.shape)}, content {field.content})'
            document.problem(key, "does not fit a table", expected=expected, found=found)


def _check_content(document: Document, key: str, name: str, content: str, fields: dict[str, Field]) -> None:
    field = fields.get(name)
    if field is None:
        if name:
            document.problem(
                key, "no such input", expected=_one_of(fields), found=f'"{name}"{suggestion(name, fields)}'
            )
    elif field.content != content:
        expected = f'an input with content = "{content}"'
        document.problem(key, "does not fit the step", expected=expected, found=f'content = "{field.content}"')


def _check_generate(manifest: Manifest, document: Document) -> None:
    for index, step in enumerate(manifest.generate):
        path = f"generate[{index}]"
        if isinstance(step, GenerateGraph) and index > 0:
            document.problem(path, "a graph must be the first step of generate", expected="the graph, then host steps")
        elif isinstance(step, Labels) and step.indices and step.indices == step.scores:
            document.problem(f"{path}.indices", "the same as scores", expected="another output", found=step.indices)
        elif isinstance(step, Catalogue) and bool(step.reason) is not bool(step.reasons):
            expected = "both or neither: the output that picks a text, and the texts"
            document.problem(f"{path}.reasons" if step.reason else f"{path}.reason", "missing", expected=expected)
        elif isinstance(step, Entities):
            tokenized = [one.input for one in manifest.prepare if isinstance(one, Tokenize)]
            if step.input and step.input not in tokenized:
                expected = "an input that a step `tokenize` takes"
                document.problem(f"{path}.input", "not a text in tokens", expected=expected, found=f'"{step.input}"')
        elif isinstance(step, Prose):
            _check_prose(manifest, document, path, step)
        elif isinstance(step, JsonText):
            _check_json(manifest, document, path, step)


def _check_prose(manifest: Manifest, document: Document, path: str, step: Prose) -> None:
    fields = {field.name: field for field in manifest.inputs}
    named = [(f"{path}.numbers_from[{index}]", name) for index, name in enumerate(step.numbers_from)]
    named += [(f"{path}.opening", name) for name in re.findall(r"\{(\w+)\}", step.opening)]
    named += [(f"{path}.quotes.{member}", name) for member, name in step.quotes.items()]
    for key, name in named:
        if name not in fields:
            found = f'"{name}"{suggestion(name, fields)}'
            document.problem(key, "no such input", expected=_one_of(fields), found=found)


def _check_json(manifest: Manifest, document: Document, path: str, step: JsonText) -> None:
    whens = [field.name for field in manifest.inputs if field.datatype == "BOOL" and not field.shape]
    if step.when and step.when not in whens:
        expected = f"one of {', '.join(whens)}" if whens else "a BOOL input"
        document.problem(f"{path}.when", "not an input that says yes or no", expected=expected, found=f'"{step.when}"')
    texts = [field.name for field in manifest.outputs if field.datatype == "BYTES" and not field.shape]
    if step.input and step.input not in texts:
        found = f'"{step.input}"{suggestion(step.input, texts)}'
        document.problem(f"{path}.input", "no output of text", expected=_one_of(texts), found=found)


def _one_of(names: Iterable[str]) -> str:
    listed = list(names)
    shortened = listed if len(listed) <= 12 else [*listed[:12], f"… ({len(listed)} in all)"]
    return f"one of {', '.join(shortened)}" if listed else "an input of that name"
