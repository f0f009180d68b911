"""What a text must be, as a grammar for the sampler: a JSON schema, a call of a tool, or a grammar that is given.

Schemas become grammars of llguidance, which is in the engine too. The engine takes a schema that it does not understand
and then holds the text to nothing, so each is compiled here first, and what cannot be held to is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onward.errors import InputError, MissingExtra
from onward.execute.tool_calls import CLOSING, OPENING, ToolUse
from onward.types import Sampling

# Free white space is where a small model loses itself; this is how `json.dumps` writes.
_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LARGEST, _SMALLEST = 10**15, 1e-6
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_VALUES = ("const", "enum", "default", "examples")
_SCHEMA = "%llguidance {{}}\nstart: %json {schema}\n"
_TEXT_OR_CALL = (
    "%llguidance {{}}\nstart: text | call\ntext: /[^<](.|\\n)*/\ncall: " + f'"{OPENING}" %json {{schema}} "{CLOSING}"\n'
)


def grammar_of(sampling: Sampling, tools: ToolUse) -> str:
    """The grammar of a text; "" where it is free. Raises `InputError` for a schema that text cannot be held to."""
    if tools.must:
        return _compiled(_SCHEMA, tools.schema, where="tools")
    if sampling.json_schema is not None:
        return _compiled(_SCHEMA, sampling.json_schema, where="json_schema")
    if sampling.grammar:
        return sampling.grammar
    return _compiled(_TEXT_OR_CALL, tools.schema, where="tools") if tools.may else ""


def ending(schema: Any) -> Any:
    """A schema whose numbers end: without a bound a small model goes on writing digits, and never closes the object.

    Nothing is changed where the schema has bounds of its own.
    """
    if isinstance(schema, list):
        return [ending(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {name: value if name in _VALUES else ending(value) for name, value in schema.items()}
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "number" in kinds or "integer" in kinds:
        if not _BOUNDS & schema.keys():
            made |= {"minimum": -_LARGEST, "maximum": _LARGEST}
        if "number" in kinds:
            made.setdefault("multipleOf", _SMALLEST)
    return made


def _compiled(grammar: str, schema: Mapping[str, Any], *, where: str) -> str:
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingExtra("JSON schemas need llguidance", expected="pip install 'onward[llm]'") from None
    text = grammar.format(schema=json.dumps({**ending(schema), "x-guidance": _FORM}))
    problem = LLMatcher.validate_grammar(text)
    if problem:
        said = problem.partition(": ")[2].partition("\n   1 |")[0]
        raise InputError(f"not a JSON schema that a text can be held to: {said}"[:500], where=where)
    return text
