"""CEL expressions over declared variables: checked when they are read, bounded, and worded for people where wrong.

`cel-expr-python` (cel-cpp) parses, type-checks and evaluates. Each field is a variable of its own, with its type;
what the library lets pass and a policy may not do is found in the tokens. Knows no TOML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from onward.decide.policy import Facts
from onward.decide.tokens import (
    MAX_CHARACTERS,
    Path,
    Token,
    has_loops,
    looped_over,
    misuses_of,
    paths_of,
    patterns_of,
    tokens_of,
    with_asked_as_names,
)
from onward.decide.variables import MISSING, TIMESTAMP, Converter, ValueType, Variable, converter, is_writable
from onward.errors import MissingExtra
from onward.package.sections import suggestion

_AT = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*?)(?:\n|\s\[[A-Z_]{4,}\]$|$)")
_OVERLOAD = re.compile(r"found no matching overload for '([^']+)' applied to '\((.*)\)'")
_UNDECLARED = re.compile(r"undeclared reference to '([^']+)'")
_SIGNS = re.compile(r"_([^_]+)_")
_ASKED = "has"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ROOTS = ("result", "input", "profile", "now", "cost", "arguments")


class ExpressionProblem(Exception):
    """An expression may not stand in a policy. `line` counts from 1, `column` too; 0 where neither is known."""

    def __init__(self, message: str, *, expected: str = "", found: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.expected, self.found = message, expected, found
        self.line, self.column = line, column


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A checked expression: `kind` is its type in words, `reads` the variables and `asks` those in `has(…)`."""

    text: str
    rewritten: str
    kind: str
    program: Any
    reads: frozenset[str]
    asks: frozenset[str]
    loops: bool


def load_cel() -> Any:
    """The CEL library. Raises `MissingExtra`."""
    try:
        from cel_expr_python import cel
    except ImportError:
        expected = "pip install 'onward[decide]'"
        raise MissingExtra("this package has a policy, and CEL is not installed", expected=expected) from None
    return cel


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a whole text is like a pattern, in time linear in the text (RE2). Raises `ValueError`."""
    cel = load_cel()
    env = cel.NewEnv(variables={"text": cel.Type.STRING})
    literal = json.dumps(f"^(?:{pattern})$", ensure_ascii=False)
    program = env.compile(f"text.matches({literal})")

    def matches(text: str) -> bool:
        found = program.eval(data={"text": text}).plain_value()
        if not isinstance(found, bool):
            raise ValueError(str(found))
        return found

    matches("")
    return matches


class Language:
    """CEL with declared variables."""

    def __init__(self, variables: Iterable[Variable]) -> None:
        self._cel = load_cel()
        self.variables = {variable.path: variable for variable in variables}
        named = {path: variable for path, variable in self.variables.items() if _is_named(variable)}
        declared = {path: self._type(variable.type) for path, variable in named.items()}
        declared |= {f"{_ASKED}.{path}": self._cel.Type.BOOL for path in named}
        self._named = named
        self._env = self._cel.NewEnv(variables=declared)

    def compile(self, text: str) -> Expression:
        """Check one expression. Raises `ExpressionProblem`."""
        if len(text) > MAX_CHARACTERS:
            raise ExpressionProblem(
                "the expression is too long", expected=f"at most {MAX_CHARACTERS} characters", found=str(len(text))
            )
        tokens = tokens_of(text)
        for misuse in misuses_of(tokens):
            raise self._problem(text, misuse.start, misuse.message, expected=misuse.expected, found=misuse.found)
        for pattern in patterns_of(tokens):
            self._check_pattern(text, pattern)
        paths = [*paths_of(tokens)]
        reads, asks = self._resolved(text, paths)
        self._check_keys(text, tokens, paths)
        asked = [path for path in paths if path.asked and path.text in self._named]
        rewritten = with_asked_as_names(text, tokens, asked)
        program = self._compiled(rewritten)
        for receiver, start in looped_over(rewritten, tokens):
            self._check_ordered(text, receiver, start)
        return Expression(
            text=text, rewritten=rewritten, kind=_kind(program), program=program,
            reads=frozenset(reads), asks=frozenset(asks), loops=has_loops(tokens),
        )  # fmt: skip

    def join(self, expressions: Iterable[Expression]) -> Any:
        """One program that gives the index of the first expression that holds, or -1; None where it gets too deep."""
        text = "".join(f"(\n{one.rewritten}\n) ? {index} : " for index, one in enumerate(expressions)) + "-1"
        try:
            return self._env.compile(text)
        except RuntimeError:
            return None

    def listed(self, expressions: Sequence[Expression]) -> Listed:
        """Several expressions, to be evaluated together."""
        try:
            program = self._env.compile("[" + ",".join(f"dyn(\n{one.rewritten}\n)" for one in expressions) + "]")
        except RuntimeError:  # one alone is as deep as the library allows
            program = None
        return Listed(program, [one.program for one in expressions])

    def activation(self, values: Mapping[str, Any]) -> Any:
        """Values of variables, for evaluating several programs."""
        return self._env.Activation(values)

    def _type(self, kind: ValueType) -> Any:
        types = self._cel.Type
        if kind.word == "list" and kind.element:
            return types.List(self._type(kind.element))
        if kind.word == "map" and kind.element:
            return types.Map(types.STRING, self._type(kind.element))
        names = {
            "number": types.DOUBLE, "integer": types.INT, "boolean": types.BOOL, "string": types.STRING,
            "timestamp": types.TIMESTAMP, "any": types.DYN,
        }  # fmt: skip
        return names[kind.word]

    def _resolved(self, text: str, paths: Iterable[Path]) -> tuple[set[str], set[str]]:
        reads: set[str] = set()
        asks: set[str] = set()
        for path in paths:
            if path.names[0] not in ROOTS:
                continue  # a variable of a loop, a type, or nothing: the library says
            known = self._longest(path)
            if known is None:
                raise self._unknown(text, path)
            kind = self._named[known].type
            if known != path.text and kind.word not in ("any", "map"):
                expected = f"{known} alone: it is a {kind}, without fields"
                raise self._problem(text, path.start, "no such field", expected=expected, found=f'"{path.text}"')
            (asks if path.asked and known == path.text else reads).add(known)
        return reads, asks

    def _check_keys(self, text: str, tokens: Sequence[Token], paths: Iterable[Path]) -> None:
        """`result.shares['food']` names a field as `result.shares.food` does."""
        ends = {token.end: index for index, token in enumerate(tokens)}
        for path in paths:
            known = [name for name in self.variables if name.startswith(f"{path.text}.")]
            index = ends[path.end] + 1
            if known and path.text in self._named and index + 2 < len(tokens):
                opening, key, closing = tokens[index : index + 3]
                name = f"{path.text}.{key.text[1:-1]}"
                if opening.text == "[" and closing.text == "]" and key.kind == "text" and name not in known:
                    found = f'"{name}"{suggestion(name, known)}'
                    expected = f"one of {_listed(known)}"
                    raise self._problem(text, key.start, "no such field", expected=expected, found=found)

    def _longest(self, path: Path) -> str | None:
        for size in range(len(path.names), 0, -1):
            name = ".".join(path.names[:size])
            if name in self._named:
                variable = self._named[name]
                inside = [other for other in self._named if other.startswith(f"{name}.")]
                # Under a map whose names are known, an unknown one is a slip and not a key.
                return None if size < len(path.names) and inside and variable.type.word == "map" else name
        return None

    def _unknown(self, text: str, path: Path) -> ExpressionProblem:
        root = path.names[0]
        unwritable = [v.path for v in self.variables.values() if not _is_named(v) and v.root == root]
        siblings = [name for name in self._named if name.split(".")[0] == root] or [*self._named]
        if len(path.names) == 1:
            expected = f"one of its fields: {_listed(siblings)}" if siblings[0].startswith(root) else _listed(siblings)
            return self._problem(text, path.start, "not a value", expected=expected, found=f'"{root}"')
        found = f'"{path.text}"{suggestion(path.text, siblings)}'
        expected = f"one of {_listed(siblings)}"
        if unwritable:
            expected += f" (not writable in CEL: {_listed(unwritable)})"
        return self._problem(text, path.start, "no such field", expected=expected, found=found)

    def _compiled(self, text: str) -> Any:
        try:
            return self._env.compile(text)
        except RuntimeError as error:
            raise _worded(str(error), [*self._named]) from None
        except (TypeError, ValueError, UnicodeError) as error:
            raise ExpressionProblem(f"not valid CEL: {error}", expected="a CEL expression") from None

    def _check_pattern(self, text: str, pattern: Token) -> None:
        try:
            value = self._env.compile(f"''.matches({pattern.text})").eval(data={}).plain_value()
        except RuntimeError:
            return  # not a string after all: the check of the whole says so
        if not isinstance(value, bool):
            found = f"{pattern.text} ({str(value).partition(': ')[2]})"
            raise self._problem(text, pattern.start, "not a regular expression", expected="RE2 syntax", found=found)

    def _check_ordered(self, text: str, receiver: str, start: int) -> None:
        try:
            kind = _kind(self._env.compile(receiver))
        except RuntimeError:
            kind = "?"
        if kind != "LIST":
            expected = "a list: the fields of a map have no order"
            raise self._problem(text, start, "map and filter loop over lists", expected=expected, found=receiver)

    @staticmethod
    def _problem(text: str, start: int, message: str, *, expected: str, found: str = "") -> ExpressionProblem:
        line = text.count("\n", 0, start) + 1
        column = start - (text.rfind("\n", 0, start) + 1) + 1
        return ExpressionProblem(message, expected=expected, found=found, line=line, column=column)


class Listed:
    """Expressions evaluated in one go: `program` gives a list; where it is None, `programs` give a value each."""

    def __init__(self, program: Any, programs: Sequence[Any]) -> None:
        self._program = program
        self._programs = programs

    def values(self, activation: Any) -> list[Any]:
        """The values, in order. Raises `ValueError` where one of them has none."""
        if self._program is not None:
            values = self._program.eval(activation).plain_value()
            if not isinstance(values, list):
                raise ValueError(str(values))
            return values
        results = [program.eval(activation) for program in self._programs]
        wrong = next((result for result in results if result.type().name() == "ERROR"), None)
        if wrong is not None:
            raise ValueError(str(wrong.plain_value()))
        return [result.plain_value() for result in results]


class Reading:
    """Turns facts into the values of those variables that some expressions read."""

    def __init__(self, language: Language, expressions: Iterable[Expression]) -> None:
        expressions = [*expressions]
        asked = frozenset[str]().union(*(one.asks for one in expressions))
        needed = asked.union(*(one.reads for one in expressions))
        self._readers: list[tuple[str, str, str, tuple[str, ...], Any, Converter]] = []
        self._reads_now = "now" in needed
        self.reads_costs = any(path.startswith("cost.") for path in needed)
        for path in sorted(needed):
            variable = language.variables[path]
            if variable.type != TIMESTAMP and variable.root != "cost":
                has = f"{_ASKED}.{path}" if path in asked else ""
                convert = converter(variable.type)
                self._readers.append((path, has, variable.root, variable.keys, variable.default, convert))

    def values(self, facts: Facts, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """{path: value} for an activation; what is missing is not in it, and `has.path` says so."""
        found: dict[str, Any] = {}
        roots = {"input": facts.input, "result": facts.answer, "profile": facts.profile, "arguments": arguments}
        for path, has, root, keys, default, convert in self._readers:
            value: Any = roots[root]
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is None:
                value = default
            value = MISSING if value is None else convert(value)
            if has:
                found[has] = value is not MISSING
            if value is not MISSING:
                found[path] = value
        if self._reads_now:
            found["now"] = EPOCH + timedelta(microseconds=round(facts.now_s * 1e6))
        return found


def _kind(program: Any) -> str:
    """The type of a program's value, without those of its elements."""
    return str(program.return_type().name()).partition("<")[0]


def _is_named(variable: Variable) -> bool:
    return all(is_writable(key) for key in variable.keys)


def _listed(names: Iterable[str]) -> str:
    names = [*names]
    return ", ".join(names if len(names) <= 12 else [*names[:12], f"… ({len(names)} in all)"])


def _worded(message: str, known: list[str]) -> ExpressionProblem:
    """The library's first complaint in our words."""
    found = _AT.search(message)
    if found is None or int(found[1]) < 1:
        if "ecursion" in message:
            return ExpressionProblem("the expression is nested too deeply", expected="at most about 25 levels")
        return ExpressionProblem(f"not valid CEL: {message.splitlines()[0]}", expected="a CEL expression")
    line, column, what = int(found[1]), int(found[2]), found[3].strip()
    if overload := _OVERLOAD.fullmatch(what):
        kinds = overload[2].split(", ")
        sign = _SIGNS.sub(r" \1 ", overload[1]).replace("_", "").strip()
        expected = "operands that go together; CEL converts nothing by itself"
        if sorted(kinds) == ["double", "int"]:
            expected = "two of one type: 1.0 is a number, 1 an integer; double(x) converts"
        return ExpressionProblem(
            "wrong types", expected=expected, found=f"{sign} of {', '.join(kinds)}", line=line, column=column
        )
    if undeclared := _UNDECLARED.match(what):
        hint = suggestion(undeclared[1], known)
        expected = f"a field of {', '.join(ROOTS[:4])}, or a function of CEL"
        return ExpressionProblem(
            "no such name", expected=expected, found=f'"{undeclared[1]}"{hint}', line=line, column=column
        )
    return ExpressionProblem("not valid CEL", expected="a CEL expression", found=what, line=line, column=column)
