"""`[[stage]]` and `[answer]` of a manifest: other packages as parts of this one, read into their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onward.package.records import Manifest, Stage
from onward.package.sections import Document, Section, shown, suggestion

_OF_MODELS = ("prepare", "execute", "generate", "sampling", "batching", "profile", "feature")


def read_stages(document: Document, *, name: str, version: str) -> tuple[Stage, ...]:
    """The stages, in order. `name` and `version` are the patterns of a package's name and version."""
    return tuple(_stage(section, name, version) for section in document.tables("stage"))


def _stage(section: Section, name: str, version: str) -> Stage:
    stage = Stage(
        name=section.name("name"),
        package=section.text("package", pattern=name, expected="the name of a package"),
        version=section.text("version", pattern=version, expected='an exact version, such as "1.0.0"'),
        inputs=_sources(section.document, section.key("inputs"), section.take("inputs") or {}),
        when=section.text("when", ""),
        values=_values(section),
    )
    section.close()
    return stage


def read_answer(document: Document) -> Mapping[str, tuple[str, ...]]:
    """Where each output of a package of stages comes from."""
    return _sources(document, "answer", document.values.get("answer") or {})


def _sources(document: Document, key: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    table = document.table(key, value)
    return {name: _source(table, name, source) for name, source in table.values.items()}


def _source(table: Section, name: str, source: Any) -> tuple[str, ...]:
    """One source, or an array of them, of which the first counts that there is."""
    sources = source if isinstance(source, list) else [source]
    if sources and all(isinstance(one, str) and one for one in sources):
        return tuple(sources)
    table.problem(name, "wrong type", expected='an input, or "STAGE.OUTPUT", or an array of them', found=shown(source))
    return ()


def _values(section: Section) -> tuple[str | bool | float, ...]:
    values = section.take("values") or []
    if isinstance(values, list) and all(isinstance(value, str | bool | int | float) for value in values):
        return tuple(values)
    section.problem("values", "wrong type", expected="a list of texts, numbers or booleans", found=shown(values))
    return ()


def check_stages(manifest: Manifest, document: Document) -> None:
    """Note what in the stages contradicts itself, as far as the text alone tells."""
    if not manifest.stages:
        if "answer" in document.values:
            document.problem("answer", "only for a package of stages", expected="[[stage]], or no [answer]")
        return
    for key in _OF_MODELS:
        if key in document.values:
            expected = "no such table beside [[stage]]: a package of stages has no model of its own"
            document.problem(key, "only for a package with a model", expected=expected)
    inputs = [field.name for field in manifest.inputs]
    taken: set[str] = set()
    earlier: list[str] = []
    for index, stage in enumerate(manifest.stages):
        path = f"stage[{index}]"
        if "." in stage.name or stage.name in earlier or stage.name in inputs:
            expected = "a name without dots that no input and no other stage has"
            document.problem(f"{path}.name", "not a name for a stage", expected=expected, found=f'"{stage.name}"')
        if (stage.package, stage.version) == (manifest.package.name, manifest.package.version):
            document.problem(f"{path}.package", "a package cannot be a stage of itself", expected="another package")
        if stage.values and not stage.when:
            document.problem(f"{path}.when", "missing", expected="the source that has to have one of the values")
        sources = {f"{path}.inputs.{name}": found for name, found in stage.inputs.items()}
        if stage.when:
            sources[f"{path}.when"] = (stage.when,)
        taken |= _check_sources(document, sources, inputs, earlier)
        earlier.append(stage.name)
    taken |= _check_answer(manifest, document, inputs, earlier)
    for index, field in enumerate(manifest.inputs):
        if field.name not in taken:
            document.problem(f"input[{index}].name", "no stage takes this input", found=f'"{field.name}"')


def _check_answer(manifest: Manifest, document: Document, inputs: list[str], stages: list[str]) -> set[str]:
    outputs = [field.name for field in manifest.outputs]
    for name in manifest.answer:
        if name not in outputs:
            found = f'"{name}"{suggestion(name, outputs)}'
            document.problem(f"answer.{name}", "no such output", expected=f"one of {', '.join(outputs)}", found=found)
    for index, name in enumerate(outputs):
        if name and name not in manifest.answer:
            expected = f'[answer] with {name} = "STAGE.OUTPUT"'
            document.problem(f"output[{index}].name", "nothing says where it comes from", expected=expected)
    return _check_sources(document, {f"answer.{n}": found for n, found in manifest.answer.items()}, inputs, stages)


def _check_sources(
    document: Document, sources: Mapping[str, tuple[str, ...]], inputs: list[str], stages: list[str]
) -> set[str]:
    """Note sources that are neither inputs nor outputs of earlier stages; the inputs among the sources."""
    taken: set[str] = set()
    for key, found in sources.items():
        for source in found:
            stage, dot, output = source.partition(".")
            if not dot:
                taken.add(source)
            if (source in inputs) if not dot else (stage in stages and output):
                continue
            known = [*inputs, *(f"{name}.OUTPUT" for name in stages)]
            shown_source = f'"{source}"{suggestion(stage, [*inputs, *stages])}'
            expected = f"one of {', '.join(known)}" if known else "an input or an output of an earlier stage"
            document.problem(key, "no such source", expected=expected, found=shown_source)
    return taken
