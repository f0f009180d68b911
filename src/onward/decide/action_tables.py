"""The `[[action]]` tables of a policy: names, typed arguments, approval and compensation, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from onward.decide.actions import ARGUMENT_KINDS, MAX_LENGTH, ActionType, Argument, ArgumentKind
from onward.decide.expressions import matcher
from onward.decide.tokens import MAX_PATTERN_CHARACTERS, pattern_misuse
from onward.errors import ArgumentRefused
from onward.package.sections import Document, Section, shown, suggestion

NAME_PATTERN = r"[a-z][a-z0-9_-]{0,63}"
_ARGUMENT_PATTERN = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_DAY_S = 86_400.0


def read_actions(document: Document) -> tuple[dict[str, ActionType], dict[int, tuple[str, str]]]:
    """The action types by name, and where a person may have to approve: {index of the table: (name, condition)}."""
    actions: dict[str, ActionType] = {}
    conditions: dict[int, tuple[str, str]] = {}
    sections = document.tables("action")
    for index, section in enumerate(sections):
        action = _action(section)
        if action.name in actions:
            section.problem("name", "given twice", expected="different names", found=f'"{action.name}"')
        actions[action.name] = action
        if action.approval:
            conditions[index] = (action.name, action.approval)
    for section, action in zip(sections, [*actions.values()], strict=False):
        _check_compensation(section, action, actions)
    return actions, conditions


def _action(section: Section) -> ActionType:
    expires_s = section.number("approval_expires_s")
    if expires_s is not None and expires_s <= 0:
        section.problem("approval_expires_s", "out of range", expected="seconds, above 0", found=shown(expires_s))
    table = section.document.table(section.key("arguments"), section.take("arguments") or {})
    action = ActionType(
        name=section.text("name", pattern=NAME_PATTERN, expected="a name of a-z, 0-9, _ and -"),
        description=section.text("description", ""),
        approval=section.text("approval", "", expected="a CEL expression, as text"),
        approval_expires_s=_DAY_S if expires_s is None else expires_s,
        compensation=section.text("compensation", "", expected="the name of an [[action]]"),
        arguments={name: _argument(section.document, table, name) for name in table.values},
    )
    section.close()
    if expires_s is not None and not action.approval:
        section.problem("approval_expires_s", "nothing needs approval", expected="approval, the condition for it")
    return action


def _argument(document: Document, table: Section, name: str) -> Argument:
    value = table.values[name]
    if re.fullmatch(_ARGUMENT_PATTERN, name) is None:
        table.problem(name, "not a name", expected="letters, digits and _", found=f'"{name}"')
    if isinstance(value, str):  # `card = "string"`: only the type
        value = {"type": value}
    section = document.table(table.key(name), value)
    kind = cast(ArgumentKind, section.text("type", choices=ARGUMENT_KINDS))
    argument = Argument(
        name=name,
        type=kind,
        required=section.flag("required", True),
        private=section.flag("private", False),
        default=section.take("default"),
        minimum=section.number("minimum"),
        maximum=section.number("maximum"),
        min_length=section.integer("min_length", 0, minimum=0),
        max_length=section.integer("max_length", MAX_LENGTH, minimum=0, maximum=100_000),
        pattern=section.text("pattern", ""),
        enum=_enum(section),
        description=section.text("description", ""),
    )
    section.close()
    if kind in ARGUMENT_KINDS:
        _check_argument(section, argument)
    return argument


def _enum(section: Section) -> tuple[Any, ...]:
    value = section.take("enum")
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        section.problem("enum", "wrong type", expected="an array of values", found=shown(value))
        return ()
    return tuple(value)


def _check_argument(section: Section, argument: Argument) -> None:
    text = argument.type == "string"
    numeric = argument.type in ("number", "integer")
    for key, fits in (("minimum", numeric), ("maximum", numeric), ("min_length", text), ("max_length", text),
                      ("pattern", text)):  # fmt: skip
        if section.has(key) and not fits:
            section.problem(key, f"not for a {argument.type}", expected=f"no {key}")
    if argument.minimum is not None and argument.maximum is not None and argument.minimum > argument.maximum:
        section.problem("maximum", "below the minimum", expected=f"at least {argument.minimum:g}")
    if argument.pattern and text:
        if problem := pattern_misuse(argument.pattern):
            section.problem("pattern", problem, expected=f"at most {MAX_PATTERN_CHARACTERS} characters")
            return
        try:
            matcher(argument.pattern)
        except (ValueError, RuntimeError) as error:
            section.problem("pattern", "not a regular expression", expected="RE2 syntax", found=str(error))
            return
    bare = Argument(name=argument.name, type=argument.type, max_length=argument.max_length)
    for index, element in enumerate(argument.enum):
        _check_value(section, f"enum[{index}]", bare, element)
    if argument.default is not None:
        _check_value(section, "default", argument, argument.default)


def _check_value(section: Section, key: str, argument: Argument, value: Any) -> None:
    try:
        argument.check(value)
    except ArgumentRefused as error:
        section.problem(key, "does not fit the argument", expected=error.expected, found=shown(value))


def _check_compensation(section: Section, action: ActionType, actions: Mapping[str, ActionType]) -> None:
    if not action.compensation:
        return
    undoing = actions.get(action.compensation)
    if undoing is None:
        found = f'"{action.compensation}"{suggestion(action.compensation, actions)}'
        section.problem("compensation", "no such action", expected=f"one of {', '.join(actions)}", found=found)
    elif {name: a.type for name, a in undoing.arguments.items()} != {n: a.type for n, a in action.arguments.items()}:
        expected = f"an action with the same arguments as {action.name}"
        section.problem("compensation", "takes other arguments", expected=expected, found=f'"{undoing.name}"')
