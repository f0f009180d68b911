"""`[profile]` and `[[feature]]` of a manifest: read and checked. How a feature is computed is not its business."""

from __future__ import annotations

import math
import re
from typing import Any, cast, get_args

import numpy as np

from onward.package.records import Feature, FeatureFunction, Manifest, ProfileSource
from onward.package.sections import Document, Section, shown, suggestion
from onward.types import NUMPY_OF_DATATYPE, Field

KIND_PATTERN = r"[a-z][a-z0-9_.-]{0,63}"
"""What an event's kind looks like, here and in the store."""

MAX_EVENTS = 100_000
_FEATURE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_FUNCTIONS: tuple[str, ...] = get_args(FeatureFunction)
_WITHOUT_FIELD = ("count", "time_since")
_INTEGERS = ("count", "distinct")
_DECLARED = ("last", "last_n")
_ZERO_WHEN_EMPTY = ("count", "sum", "distinct")


def read_profile(document: Document) -> ProfileSource | None:
    """The `[profile]` table, None where the text has none."""
    if "profile" not in document.values:
        return None
    section = document.section("profile")
    profile = ProfileSource(
        entity=section.name("entity", kind="the name of an input"),
        ttl_s=_seconds(section, "ttl_s"),
        max_events=section.integer("max_events", 10_000, minimum=1, maximum=MAX_EVENTS),
    )
    section.close()
    return profile


def read_features(document: Document, inputs: tuple[Field, ...]) -> tuple[Feature, ...]:
    """The `[[feature]]` tables, in order."""
    datatypes = {field.name: field.datatype for field in inputs}
    return tuple(_feature(section, datatypes) for section in document.tables("feature"))


def check_profile(manifest: Manifest, document: Document) -> None:
    """Note in `document` where profile, features and inputs do not fit together."""
    fields = {field.name: field for field in manifest.inputs}
    if manifest.profile is not None and manifest.profile.entity:
        _check_entity(document, manifest.profile.entity, fields)
    if manifest.features and manifest.profile is None:
        expected = "[profile] with entity, the input that names whose events they are"
        document.problem("feature[0]", "features need a profile", expected=expected)
    names = [feature.name for feature in manifest.features]
    for index, feature in enumerate(manifest.features):
        path = f"feature[{index}]"
        if feature.name and feature.name in names[:index]:
            found = f'"{feature.name}"'
            document.problem(f"{path}.name", "given twice", expected="different names", found=found)
        if feature.name in fields:
            _check_fills(document, path, feature, fields[feature.name])
        if manifest.profile is not None and manifest.profile.entity == feature.name:
            document.problem(f"{path}.name", "the entity cannot be a feature", expected="another name")


def _feature(section: Section, datatypes: dict[str, str]) -> Feature:
    name = section.text("name", pattern=_FEATURE_NAME, expected="a name for `profile.NAME`: letters, digits and _")
    kinds = _kinds(section)
    function = section.text("function", choices=_FUNCTIONS)
    field = section.name("field", "", kind="the name of a value in the event's data")
    known = function in _FUNCTIONS
    if known and function in _WITHOUT_FIELD and section.has("field"):
        section.problem("field", f"{function} looks at no field", expected="no field", found=shown(field))
    elif known and function not in _WITHOUT_FIELD and not section.has("field"):
        section.problem("field", "missing", expected="the name of a value in the event's data")
    n = section.integer("n", 1, minimum=1, maximum=10_000)
    if known and (function == "last_n") is not section.has("n"):
        expected = "n, the length of the list" if function == "last_n" else 'no n, or function = "last_n"'
        section.problem("n", "missing" if function == "last_n" else "only for last_n", expected=expected)
    datatype = _datatype(section, function, datatypes.get(name))
    feature = Feature(
        name=name,
        kinds=kinds,
        function=cast(FeatureFunction, function),
        field=field,
        window_s=_seconds(section, "window_s"),
        n=n,
        datatype=datatype,
        default=_default(section, function, datatype),
        missing=_missing(section, function, datatype),
        description=section.text("description", ""),
    )
    section.close()
    return feature


def _kinds(section: Section) -> tuple[str, ...]:
    if section.has("kind") and section.has("kinds"):
        section.take("kinds")
        section.problem("kinds", "given beside kind", expected='kind = "…" or kinds = ["…", "…"]')
    expected = f"a kind of event: {KIND_PATTERN}"
    if section.has("kind") or not section.has("kinds"):
        section.take("kinds")
        return (section.text("kind", pattern=KIND_PATTERN, expected=expected),)
    section.take("kind")
    kinds = section.names("kinds", (), kind="kinds of events")
    for index, kind in enumerate(kinds):
        if not is_kind(kind):
            section.problem(f"kinds[{index}]", "not allowed here", expected=expected, found=shown(kind))
    return kinds


def is_kind(text: str) -> bool:
    """Whether `text` may name a kind of event."""
    return re.fullmatch(KIND_PATTERN, text) is not None


def _datatype(section: Section, function: str, of_input: str | None) -> str:
    if function in _DECLARED:
        return section.text("datatype", of_input, choices=NUMPY_OF_DATATYPE)
    own = "INT64" if function in _INTEGERS else "FP64"
    if section.take("datatype") not in (None, own) and function in _FUNCTIONS:
        section.problem("datatype", f"{function} gives {own}", expected=f'no datatype, or "{own}"')
    return own


def _default(section: Section, function: str, datatype: str) -> float | str | bool | tuple[Any, ...] | None:
    value = section.take("default")
    if function == "last_n":
        if value is None:
            return ()
        elements = value if isinstance(value, list) else None
        typed = None if elements is None else [typed_value(element, datatype) for element in elements]
        if typed is None or None in typed:
            section.problem(
                "default", "does not fit the feature", expected=f"an array of {datatype}", found=shown(value)
            )
            return ()
        return tuple(typed)
    if value is None:
        return typed_value(0, datatype) if function in _ZERO_WHEN_EMPTY else None
    return _typed(section, "default", value, datatype)


def _missing(section: Section, function: str, datatype: str) -> float | str | bool | None:
    value = section.take("missing")
    if value is None:
        return None
    if function in _WITHOUT_FIELD or function == "distinct":
        section.problem("missing", f"not for {function}", expected="no missing", found=shown(value))
        return None
    return _typed(section, "missing", value, datatype)


def _typed(section: Section, key: str, value: Any, datatype: str) -> float | str | bool | None:
    typed = typed_value(value, datatype)
    if typed is None and datatype in NUMPY_OF_DATATYPE:
        section.problem(key, "does not fit the feature", expected=f"one {datatype}", found=shown(value))
    return typed


def typed_value(value: Any, datatype: str) -> float | str | bool | None:
    """A value of TOML or JSON as one of the datatype (text, bool, int or float), None where it is not one.

    An integer is a floating-point number, too, and a whole floating-point number an integer; nothing else is turned
    into anything.
    """
    if datatype == "BYTES":
        return value if isinstance(value, str) else None
    if datatype == "BOOL":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if datatype.startswith("FP"):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    if isinstance(value, float) and not value.is_integer():
        return None
    bounds = np.iinfo(NUMPY_OF_DATATYPE.get(datatype, np.dtype(np.int64)))
    return int(value) if bounds.min <= value <= bounds.max else None


def _seconds(section: Section, name: str) -> float | None:
    value = section.number(name)
    if value is not None and value <= 0:
        section.problem(name, "out of range", expected="a number of seconds above 0", found=shown(value))
    return value


def _check_entity(document: Document, entity: str, fields: dict[str, Field]) -> None:
    field = fields.get(entity)
    if field is None:
        expected = f"one of {', '.join(list(fields)[:12])}"
        found = f'"{entity}"{suggestion(entity, fields)}'
        document.problem("profile.entity", "no such input", expected=expected, found=found)
    elif field.datatype != "BYTES" or field.shape or field.content not in ("value", "text"):
        expected = 'an input with datatype = "BYTES", shape = [] and no image or audio'
        found = f"{field.datatype}, shape {list(field.shape)}, content {field.content}"
        document.problem("profile.entity", "cannot name an entity", expected=expected, found=found)


def _check_fills(document: Document, path: str, feature: Feature, field: Field) -> None:
    """A feature that bears an input's name gives values that the input takes."""
    kinds = {name: dtype.kind for name, dtype in NUMPY_OF_DATATYPE.items()}
    have, want = kinds.get(feature.datatype, ""), kinds.get(field.datatype, "")
    fits = (have in "iu" and want in "iuf") or have == want
    if not fits or field.content not in ("value", "text"):
        found = f"{feature.datatype} for an input of {field.datatype}, content {field.content}"
        document.problem(path, "does not fit the input of its name", expected=f"a {field.datatype}", found=found)
    elif field.shape != feature.shape:
        found = f"shape {list(field.shape)}"
        expected = f"shape = {list(feature.shape)} of the input, as {feature.function} gives"
        document.problem(path, "does not fit the input of its name", expected=expected, found=found)
