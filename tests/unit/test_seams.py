"""The seams that others build on do not change by accident: they are frozen in `seams.json`.

Manifest keys, the vocabulary's records, the protocols between the steps, the pipeline, the scheduler and the errors.
A change that is meant goes into the changelog, and `python tests/unit/test_seams.py` freezes the new state.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args

import pytest

import onward
from onward import types
from onward.decide.policy import Facts, Policy
from onward.errors import ManifestError, OnwardError
from onward.execute.backend import Admission, Batched, Streaming
from onward.execute.scheduler import Batch, Scheduler, State, Work
from onward.package import records
from onward.package.manifest import parse_manifest
from onward.package.pack import pack
from onward.pipeline import Pipeline
from onward.store import records as store_records
from onward.store.store import Reader, Store, Transaction

FROZEN = Path(__file__).with_name("seams.json")
Seams: TypeAlias = dict[str, dict[str, str]]
"""{what: {member: how it is declared}}."""

MANIFEST: Mapping[str, type[Any]] = {
    "[package]": records.PackageInfo,
    "[[input]] and [[output]]": types.Field,
    "[[prepare]] table": records.Table,
    "[[prepare]] tokenize": records.Tokenize,
    "[[prepare]] decode_image": records.DecodeImage,
    "[[prepare]] graph": records.PrepareGraph,
    "[execute]": records.Execute,
    "[[generate]] graph": records.GenerateGraph,
    "[[generate]] labels": records.Labels,
    "[[generate]] named": records.Named,
    "[batching]": records.Batching,
    "[limits]": records.Limits,
    "[profile]": records.ProfileSource,
    "[[feature]]": records.Feature,
}
CLASSES = (types.CancelToken, Batched, Streaming, Policy, Reader, Transaction, Store, Pipeline, Work, Scheduler)


def fields(record: type[Any]) -> dict[str, str]:
    """A dataclass's fields, each with its type and default."""
    return {field.name: f"{field.type}{_default(field)}" for field in dataclasses.fields(record)}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ""


def declared(function: Any) -> str:
    """A function as its `def` line says it, whatever the version of Python."""
    signature, parts = inspect.signature(function), []
    seen_keyword = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not seen_keyword:
            parts.append("*")
            seen_keyword = True
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        seen_keyword |= star == "*"
        kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        parts.append(f"{star}{parameter.name}{kind}{default}")
    returned = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return f"({', '.join(parts)}){returned}"


def members(owner: type[Any]) -> Iterator[tuple[str, str]]:
    """The public methods and properties that a class itself declares, and how it is made and called."""
    for name, value in vars(owner).items():
        public = not name.startswith("_") or name in ("__call__", "__enter__", "__exit__")
        public |= name == "__init__" and not getattr(owner, "_is_protocol", False)
        if not public:
            continue
        if isinstance(value, property):
            yield name, f"property{declared(value.fget)}"
        elif isinstance(value, classmethod | staticmethod):
            yield name, f"{type(value).__name__}{declared(value.__func__)}"
        elif inspect.isfunction(value):
            yield name, declared(value)


def errors() -> dict[str, str]:
    """{code: HTTP status and exit code} of every error."""
    for module in pkgutil.walk_packages(onward.__path__, "onward."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = {}, [OnwardError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if error.__module__.startswith("onward."):
            found[error.code] = f"status {error.status}, exit {error.exit_code}"
    return found


def own(module: Any, *, of: Any) -> list[type[Any]]:
    """The classes of a module itself for which `of` holds."""
    return [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__
            and of(each)]  # fmt: skip


def seams() -> Seams:
    """The seams as they are now."""
    found: Seams = {f"manifest {section}": fields(record) for section, record in MANIFEST.items()}
    for module in (types, store_records):
        for record in own(module, of=dataclasses.is_dataclass):
            found[f"record {module.__name__.removeprefix('onward.')}.{record.__name__}"] = fields(record)
    for record in (Admission, Batch, Facts):
        found[f"record {record.__module__.removeprefix('onward.')}.{record.__name__}"] = fields(record)
    for each in (State, *own(store_records, of=lambda value: issubclass(value, enum.Enum))):
        found[f"members of {each.__name__}"] = {member.name: repr(member.value) for member in each}
    for owner in CLASSES:
        found[f"class {owner.__name__}"] = dict(members(owner))
    found["words of content"] = dict.fromkeys(get_args(types.Content), "str")
    found["datatypes"] = {name: str(dtype) for name, dtype in types.NUMPY_OF_DATATYPE.items()}
    found["functions"] = {"onward.open": declared(onward.open), "onward.pack": declared(pack)}
    found["errors"] = errors()
    return found


def changes(frozen: Seams, found: Seams) -> list[str]:
    """One line for every member that came, went or is declared in another way."""
    lines = []
    for what in sorted(frozen.keys() | found.keys()):
        before, now = frozen.get(what, {}), found.get(what, {})
        for member in sorted(before.keys() | now.keys()):
            if before.get(member) != now.get(member):
                was, became = before.get(member, "nothing"), now.get(member, "nothing")
                lines.append(f"a seam changed: {what}, {member}: was {was}; now {became}")
    return lines


def test_no_seam_changed() -> None:
    changed = changes(json.loads(FROZEN.read_text("utf-8")), seams())
    assert not changed, "\n".join([*changed, f"If it is meant: changelog, then python {Path(__file__).name}"])


def test_every_kind_of_seam_is_frozen() -> None:
    frozen = json.loads(FROZEN.read_text("utf-8"))
    assert all(frozen.values()), [what for what, inside in frozen.items() if not inside]
    assert frozen["manifest [package]"]["version"] == "str"
    assert frozen["manifest [batching]"]["max_batch_size"] == "int = 64"
    assert {"run", "close", "inputs", "outputs"} == frozen["class Batched"].keys()
    assert frozen["class Policy"]["decide"].endswith("facts: Facts) -> Decision")
    assert "QUEUED" in frozen["members of State"]
    assert frozen["errors"]["QUEUE_FULL"] == "status 429, exit 75"


@pytest.mark.parametrize(
    ("what", "member", "value"),
    [
        ("manifest [limits]", "rows", "int = 2048"),
        ("manifest [limits]", "rows", None),
        ("manifest [limits]", "columns", "int = 1"),
        ("class Policy", "decide", "(self, result: Result) -> Decision"),
        ("errors", "QUEUE_FULL", "status 503, exit 75"),
        ("a new class", "run", "(self)"),
    ],
)
def test_a_changed_missing_or_added_member_is_named(what: str, member: str, value: str | None) -> None:
    found = seams()
    inside = found.setdefault(what, {})
    if value is None:
        del inside[member]
    else:
        inside[member] = value
    assert [line.startswith(f"a seam changed: {what}, {member}: was ") for line in changes(seams(), found)] == [True]


def test_a_changed_declaration_is_a_changed_seam() -> None:
    class Other:
        def decide(self, result: int, *names: str, now_s: float = 0.0, **more: int) -> None: ...

        @property
        def width(self) -> int: ...

        def _private(self) -> None: ...

    assert dict(members(Other)) == {
        "decide": "(self, result: int, *names: str, now_s: float = 0.0, **more: int) -> None",
        "width": "property(self) -> int",
    }


TEXT = """
format = 1
[package]
name = "a"
version = "1"
[[input]]
name = "x"
datatype = "FP32"
[[output]]
name = "y"
datatype = "FP32"
[execute]
[batching]
[limits]
"""


def known_keys(table: str, step: str = "") -> set[str]:
    """The keys that the parser knows in a table, as its error about one that it does not know lists them."""
    text = TEXT if table in TEXT else f"{TEXT}{table}\n"
    unknown = f'step = "{step}"\nfrobnicate = 1' if step else "frobnicate = 1"
    with pytest.raises(ManifestError) as refused:
        parse_manifest(text.replace(f"\n{table}\n", f"\n{table}\n{unknown}\n"))
    (keys,) = re.findall(r"frobnicate: unknown key; expected one of ([\w, ]+)", str(refused.value))
    return set(keys.split(", "))


@pytest.mark.parametrize("what", MANIFEST)
def test_the_parser_knows_the_frozen_keys_of_the_manifest_and_no_others(what: str) -> None:
    frozen = set(json.loads(FROZEN.read_text("utf-8"))[f"manifest {what}"])
    if " and " in what:
        assert set().union(*map(known_keys, what.split(" and "))) == frozen
    else:
        table, _, step = what.partition(" ")
        assert known_keys(table, step) - {"step", "kind"} == frozen  # `kind = "a"` is short for `kinds = ["a"]`


def freeze() -> None:
    """Write the seams as they are now."""
    FROZEN.write_text(json.dumps(seams(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    freeze()
    sys.stdout.write(f"{FROZEN.name}: {len(json.loads(FROZEN.read_text('utf-8')))} seams\n")
