"""A manifest as text: a commented `onward.toml` that a person can read and go on editing by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from onward.package.records import (
    Batching,
    Catalogue,
    Execute,
    Feature,
    GenerateGraph,
    GenerateStep,
    Labels,
    Limits,
    Manifest,
    Named,
    PrepareStep,
    ProfileSource,
    Stage,
    Table,
    Tokenize,
)
from onward.types import Field, Sampling

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def dump_manifest(manifest: Manifest) -> str:
    """Write a manifest as commented TOML. `parse_manifest` of the result gives an equal manifest."""
    package = manifest.package
    blocks = [
        "# What this package takes, what it gives, and how it runs. Reference: docs/reference/manifest.md\nformat = 1",
        _block("[package]", _pairs(package, ("name", "version", "task", "licence", "description"))),
        "# Inputs: the fields of one item, without a batch dimension.",
        *(_block("[[input]]", _field_pairs(field)) for field in manifest.inputs),
        "# Outputs: what an answer holds for each item.",
        *(_block("[[output]]", _field_pairs(field)) for field in manifest.outputs),
    ]
    if manifest.prepare:
        blocks.append("# Prepare: from the item's fields to the model's tensors, in this order.")
        blocks.extend(_block("[[prepare]]", _prepare_pairs(step)) for step in manifest.prepare)
    if manifest.stages:
        blocks.append("# Stages: the packages that this one is made of, and where their inputs come from.")
        blocks.extend(_block("[[stage]]", _stage_pairs(stage)) for stage in manifest.stages)
        blocks.append("# Answer: which stage each output comes from.")
        blocks.append(_block("[answer]", _sources(manifest.answer)))
    else:
        blocks.append("# Execute: the model, over batches of items.")
        blocks.append(_block("[execute]", _execute_pairs(manifest.execute)))
    sampling = {name: value for name, value in _changed(manifest.sampling, Sampling()).items() if value is not None}
    if sampling:
        blocks.append("# Sampling: how the model picks tokens, unless a request says otherwise.")
        blocks.append(_block("[sampling]", sampling))
    if manifest.generate:
        blocks.append("# Generate: from the model's tensors to the answer, in this order.")
        blocks.extend(_block("[[generate]]", _generate_pairs(step)) for step in manifest.generate)
    if not manifest.stages:
        blocks.append("# Batching: how many rows run together, and how long the first may wait for more.")
        blocks.append(_block("[batching]", _batching_pairs(manifest.batching)))
    limits = _changed(manifest.limits, Limits())
    if limits:
        blocks.append("# Limits of one request, checked before anything is allocated.")
        blocks.append(_block("[limits]", limits))
    if manifest.profile is not None:
        blocks.append("# Profile: the input that names the entity, and what its past events say, as `profile.NAME`.")
        blocks.append(_block("[profile]", _changed(manifest.profile, ProfileSource(entity=""))))
        blocks.extend(_block("[[feature]]", _feature_pairs(feature)) for feature in manifest.features)
    return "\n\n".join(blocks).replace(".\n\n[", ".\n[") + "\n"


def _block(header: str, pairs: Mapping[str, Any]) -> str:
    return "\n".join([header, *(f"{_key(key)} = {toml_value(value)}" for key, value in pairs.items())])


def _pairs(record: object, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in names}
    return {name: value for name, value in values.items() if value not in ("", (), None)}


def _changed(record: object, usual: object) -> dict[str, Any]:
    names = type(record).__dataclass_fields__  # type: ignore[attr-defined]
    return {name: getattr(record, name) for name in names if getattr(record, name) != getattr(usual, name)}


def _field_pairs(field: Field) -> dict[str, Any]:
    changed = _changed(field, Field(name="", datatype=""))
    first: dict[str, Any] = {"name": field.name, "datatype": field.datatype, "shape": field.shape}
    return first | {key: value for key, value in changed.items() if key not in first}


def _prepare_pairs(step: PrepareStep) -> dict[str, Any]:
    pairs: dict[str, Any] = {"step": step.step}
    if isinstance(step, Table):
        pairs |= {"columns": step.columns, "output": step.output}
        return pairs | ({"unknown": step.unknown} if step.unknown != "error" else {})
    if isinstance(step, Tokenize):
        return pairs | _pairs(step, ("input", "file", "max_tokens", "outputs"))
    return pairs | _pairs(step, type(step).__dataclass_fields__)


def _stage_pairs(stage: Stage) -> dict[str, Any]:
    pairs = _pairs(stage, ("name", "package", "version"))
    return pairs | {"inputs": _sources(stage.inputs)} | _pairs(stage, ("when", "values"))


def _sources(sources: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {name: found[0] if len(found) == 1 else found for name, found in sources.items()}


def _execute_pairs(execute: Execute) -> dict[str, Any]:
    pairs = _pairs(execute, ("backend", "file", "entry"))
    usual = Execute(backend=execute.backend, file=execute.file, entry=execute.entry)
    return pairs | _changed(execute, usual)


def _generate_pairs(step: GenerateStep) -> dict[str, Any]:
    pairs: dict[str, Any] = {"step": step.step}
    if isinstance(step, GenerateGraph):
        return pairs | {"file": step.file}
    if isinstance(step, Labels):
        return pairs | _pairs(step, ("scores", "indices", "file", "top_k", "output"))
    if isinstance(step, Catalogue):
        names = ("ids", "scores", "because", "reason", "reasons", "file", "top_k", "output")
        return pairs | _pairs(step, names)
    if isinstance(step, Named):
        return pairs | {"input": step.input, "names": step.names}
    return pairs | {name: getattr(step, name) for name in type(step).__dataclass_fields__ if getattr(step, name)}


def _batching_pairs(batching: Batching) -> dict[str, Any]:
    pairs: dict[str, Any] = {"max_batch_size": batching.max_batch_size}
    return pairs | _changed(batching, Batching(max_batch_size=batching.max_batch_size))


def _feature_pairs(feature: Feature) -> dict[str, Any]:
    pairs: dict[str, Any] = {"name": feature.name}
    pairs |= {"kind": feature.kinds[0]} if len(feature.kinds) == 1 else {"kinds": feature.kinds}
    pairs |= {"function": feature.function} | _pairs(feature, ("field", "window_s"))
    if feature.function == "last_n":
        pairs["n"] = feature.n
    if feature.function in ("last", "last_n"):
        pairs["datatype"] = feature.datatype
    values = {"default": feature.default, "missing": feature.missing, "description": feature.description or None}
    return pairs | {key: value for key, value in values.items() if value is not None}


def toml_value(value: Any) -> str:
    """One value as TOML: text, booleans, numbers, arrays and inline tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml_value(element)}" for key, element in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return _array([toml_value(element) for element in value])


def _array(elements: list[str]) -> str:
    line = f"[{', '.join(elements)}]"
    if len(line) <= 100:
        return line
    rows = [""]
    for element in elements:
        if len(rows[-1]) + len(element) > 100:
            rows.append("")
        rows[-1] += f" {element},"
    return "[\n" + "\n".join(f"   {row}" for row in rows if row) + "\n]"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    written = []
    for character in text:
        plain = character >= " " and character != "\x7f"
        escaped = _ESCAPES.get(character, character if plain else f"\\u{ord(character):04x}")
        written.append(escaped)
    return '"' + "".join(written) + '"'
