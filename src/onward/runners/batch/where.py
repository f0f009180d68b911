"""`--where`: a condition on the columns of the input, in the words of SQL, as an Arrow expression.

Comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, arithmetic and brackets. Where a comparison meets a null, the row
is not taken, as in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onward.errors import UsageError

_TOKENS = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")
    |(?P<word>[A-Za-z_][A-Za-z0-9_.]*)|(?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,|\+|-|\*|/))""",
    re.VERBOSE,
)
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "between", "like", "true", "false"})
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda a, b: a == b, "==": lambda a, b: a == b, "<>": lambda a, b: a != b, "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip
_DEEPEST = 100


class Condition:
    """A parsed condition: `columns` are those that it reads."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        """Raises `UsageError` naming the place."""
        self.columns: list[str] = []
        self._text = text
        self._schema = schema
        self._tokens = self._split()
        self._at = 0
        self._depth = 0
        self.expression: pc.Expression = self._or()
        if self._at < len(self._tokens):
            raise self._wrong("AND or OR")

    def places(self, table: pa.RecordBatch) -> Any:
        """Where in the table the condition holds: int64. Raises `UsageError` where types do not fit."""
        numbered = pa.Table.from_batches([table]).append_column("\0place", pa.array(np.arange(table.num_rows)))
        try:
            return numbered.filter(self.expression).column("\0place").to_numpy()
        except (pa.ArrowException, TypeError) as error:
            raise UsageError(str(error).splitlines()[0], where=f"--where {self._text}") from None

    def _split(self) -> list[tuple[str, str]]:
        tokens, at = [], 0
        text = self._text.rstrip()
        while at < len(text):
            found = _TOKENS.match(text, at)
            if found is None:
                raise UsageError(
                    "not understood", where=f"--where …{text[at : at + 20]}", expected="a condition as in SQL"
                )
            kind = str(found.lastgroup)
            word = found.group(kind)
            is_key = kind == "word" and word.lower() in _KEYWORDS
            tokens.append(("key", word.lower()) if is_key else (kind, word))
            at = found.end()
        return tokens

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end")

    def _take(self, *words: str) -> str:
        """The next token, if it is one of these; else ""."""
        kind, word = self._peek()
        if kind in ("key", "sign") and word in words:
            self._at += 1
            return word
        return ""

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise self._wrong(word.upper())

    def _wrong(self, expected: str) -> UsageError:
        return UsageError("not understood", where=f"--where {self._text}", expected=expected, found=self._peek()[1])

    def _or(self) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UsageError("nested too deeply", where="--where")
        left = self._and()
        while self._take("or"):
            left = left | self._and()
        self._depth -= 1
        return left

    def _and(self) -> Any:
        left = self._not()
        while self._take("and"):
            left = left & self._not()
        return left

    def _not(self) -> Any:
        negative = False
        while self._take("not"):
            negative = not negative
        found = self._comparison()
        return ~found if negative else found

    def _comparison(self) -> Any:
        left = self._sum()
        if word := self._take(*_COMPARE):
            return _COMPARE[word](left, self._sum())
        if self._take("is"):
            negative = self._take("not")
            self._need("null")
            return ~left.is_null() if negative else left.is_null()
        negative = self._take("not")
        if self._take("in"):
            found = self._within(left)
        elif self._take("between"):
            low = self._sum()
            self._need("and")
            found = (left >= low) & (left <= self._sum())
        elif self._take("like"):
            kind, pattern = self._peek()
            if kind != "text":
                raise self._wrong("a pattern in quotes")
            self._at += 1
            found = pc.match_like(left, _unquoted(pattern))
        elif negative:
            raise self._wrong("IN, BETWEEN or LIKE")
        else:
            return left
        return ~found if negative else found

    def _within(self, left: Any) -> Any:
        self._need("(")
        found = left == self._sum()
        while self._take(","):
            found = found | (left == self._sum())
        self._need(")")
        return found

    def _sum(self) -> Any:
        left = self._product()
        while sign := self._take("+", "-"):
            right = self._product()
            left = left + right if sign == "+" else left - right
        return left

    def _product(self) -> Any:
        left = self._value()
        while sign := self._take("*", "/"):
            right = self._value()
            left = left * right if sign == "*" else left / right
        return left

    def _value(self) -> Any:
        if self._take("("):
            found = self._or()
            self._need(")")
            return found
        if self._take("-"):
            return pc.negate(self._value())
        if word := self._take("true", "false"):
            return pc.scalar(word == "true")
        kind, word = self._peek()
        if kind not in ("number", "text", "quoted", "word"):
            raise self._wrong("a column or a value")
        self._at += 1
        if kind == "number":
            return pc.scalar(int(word) if word.isdigit() else float(word))
        if kind == "text":
            return pc.scalar(_unquoted(word))
        name = _unquoted(word) if kind == "quoted" else word
        if name not in self._schema.names:
            raise UsageError("the input has no such column", where=f"--where {self._text}", found=repr(name))
        if name not in self.columns:
            self.columns.append(name)
        return pc.field(name)


def _unquoted(word: str) -> str:
    return word[1:-1].replace(word[0] * 2, word[0])
