"""`[[stage]]` and `[answer]` of a manifest: other packages as parts of this one, read into their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onward.package.records import Stage
from onward.package.sections import Document, Section, shown


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


def read_answer(document: Document) -> Mapping[str, str]:
    """Where each output of a package of stages comes from."""
    return _sources(document, "answer", document.values.get("answer") or {})


def _sources(document: Document, key: str, value: Any) -> Mapping[str, str]:
    table = document.table(key, value)
    sources: dict[str, str] = {}
    for name, source in table.values.items():
        if isinstance(source, str):
            sources[name] = source
        else:
            expected = 'an input, or "STAGE.OUTPUT"'
            table.problem(name, "wrong type", expected=expected, found=shown(source))
    return sources


def _values(section: Section) -> tuple[str | bool | float, ...]:
    values = section.take("values") or []
    if isinstance(values, list) and all(isinstance(value, str | bool | int | float) for value in values):
        return tuple(values)
    section.problem("values", "wrong type", expected="a list of texts, numbers or booleans", found=shown(values))
    return ()
