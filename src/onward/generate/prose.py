"""Generated prose: what it must be to be given, checked before anyone reads it, and a grammar that helps it to be so.

A paragraph passes when it is long enough, in enough whole sentences, ends properly, holds nothing that a template left
over, and every number in it stands in the inputs that the manifest names. The grammar (GBNF) says the same where a
grammar can: a small model then mostly passes at its first try. The check alone decides. Runs no model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from onward.errors import ExecutionError
from onward.package.manifest_sampling import read_schema
from onward.package.records import JsonText, Manifest, Prose

WORDS_A_SENTENCE = (12, 40)
"""The grammar's sentences: shorter ones do not fill a paragraph, longer ones of a small model lose their thread."""
MORE_SENTENCES = 1
"""How many sentences beyond the fewest the grammar lets a paragraph have."""
MOST_WORDS_OF_A_LINE = 12
"""The longest line of JSON that is no paragraph and quotes nothing."""
MOST_LINES = 12
"""How many lines of an input are quoted from at most, and how long a list of JSON the grammar tells."""

_NUMBER = re.compile(r"\d+(?:[,  ’']\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W_]+(?:[-'’.,/][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)")
_PROPER_END = re.compile(r"[.!?…][\"'”’)\]]*\s*$")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|approx|incl|vs|Dr|Mr|Mrs|Ms|St|No|oz|ft|Co|Ltd|Inc)\.$", re.IGNORECASE)
# What a template or a chat leaves behind when it is not filled: no such thing is meant to be read.
_LEFT_OVER = re.compile(
    r"\{\{?[^{}]*\}?\}|\[(?:your|insert|product|brand|company|name|price|x+)\b[^\]]*\]|<[a-z_|/][^<>]*>|\bX{2,}\b"
    r"|\blorem ipsum\b|<\|[a-z_]+\|>",
    re.IGNORECASE,
)
_LISTS = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#+)\s", re.MULTILINE)
# "one" is mostly no number ("this one"), so it may be said freely.
_NAMED = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18,
    "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90, "hundred": 100, "thousand": 1000, "million": 1_000_000, "dozen": 12, "twice": 2, "double": 2,
    "triple": 3,
}  # fmt: skip
_UNITS_OF_TEN = re.compile(
    rf"\b({'|'.join(name for name, value in _NAMED.items() if 20 <= value < 100)})[- ]"
    rf"({'|'.join(name for name, value in _NAMED.items() if value < 10)}|one)\b"
)


class Writing:
    """The steps `prose` and `json` of one package: the checks of a generated text, its members and its grammar."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        """Raises `ValueError` where the JSON schema is not one."""
        self._prose = next((step for step in manifest.generate if isinstance(step, Prose)), None)
        self._json = next((step for step in manifest.generate if isinstance(step, JsonText)), None)
        self._schema = read_schema(Path(folder) / self._json.file) if self._json is not None else None

    @property
    def attempts(self) -> int:
        """How often a text is generated at most, until one passes: 1 where nothing is checked."""
        return self._prose.attempts if self._prose is not None else 1

    @property
    def checks(self) -> bool:
        """Whether a text may be refused: what is streamed must then wait until it has passed."""
        return self._prose is not None

    def is_json(self, item: Mapping[str, Any]) -> bool:
        """Whether this item is answered as JSON."""
        return self._json is not None and (not self._json.when or item.get(self._json.when) is True)

    def schema(self, item: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The JSON schema that the text of this item must keep to, None where it is plain."""
        return self._schema if self.is_json(item) else None

    def check(self, text: str, item: Mapping[str, Any]) -> list[str]:
        """What is wrong with the text, each in a few words; nothing: it may be given."""
        step = self._prose
        opening = _filled(step.opening, item) if step is not None else ""
        if self.is_json(item):
            try:
                members = _object(text)
            except ExecutionError as error:
                return [str(error)]
            return [] if step is None else _object_problems(members, item, step, opening)
        return [] if step is None else _paragraph_problems(text, step, opening) + _truth_problems(text, item, step)

    def fields(self, text: str, item: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs that the text becomes: the members of its JSON, or the text under the name `prose` knows it by.

        Raises `ExecutionError` where it is not JSON.
        """
        if self.is_json(item):
            return _object(text)
        return {self._prose.input if self._prose is not None else "text": text.strip()}

    def grammar(self, item: Mapping[str, Any]) -> str:
        """GBNF for this item's text: whole sentences, enough words, only the item's numbers. "" where none is known.

        As JSON, an object of texts and lists of texts can be told in this way; any other schema is left to the engine.
        """
        step = self._prose
        if step is None or not (step.min_words or step.min_sentences or step.numbers_from):
            return ""
        rules = ["root ::= paragraph"]
        if self.is_json(item):
            more = _json_rules(self._schema or {}, step, item)
            if not more:
                return ""
            rules = ["root ::= object", *more]
        return "\n".join([*rules, *_prose_rules(step, item, as_json=self.is_json(item))]) + "\n"


def numbers(text: str) -> set[Decimal]:
    """Every number in a text: 1,000 and 1000 are the same, and so are 2, 2.0 and two. "one" is no number."""
    found = {Decimal(re.sub(r"[^\d.]", "", match)) for match in _NUMBER.findall(text)}
    lowered = text.lower()
    for tens, units in _UNITS_OF_TEN.findall(lowered):
        found.add(Decimal(_NAMED[tens] + _NAMED.get(units, 1)))
    lowered = _UNITS_OF_TEN.sub(" ", lowered)
    return found | {Decimal(_NAMED[word]) for word in re.findall(r"[a-z]+", lowered) if word in _NAMED}


def sentences(text: str) -> int:
    """How many sentences end in a text."""
    ends = [match.start() + 1 for match in _SENTENCE_END.finditer(text)]
    return sum(not _ABBREVIATION.search(text[:end]) or end >= len(text.rstrip()) for end in ends)


def words(text: str) -> int:
    """How many words a text has; a number is one."""
    return len(_WORD.findall(text))


def _object_problems(members: Mapping[str, Any], item: Mapping[str, Any], step: Prose, opening: str) -> list[str]:
    paragraph = members.get(step.input)
    if not isinstance(paragraph, str):
        return [f'the JSON has no text "{step.input}"']
    problems = _paragraph_problems(paragraph, step, opening)
    for name, source in step.quotes.items():
        lines = _lines(item, source)
        problems += [
            f'"{text}" of {name} is no line of {source}' for text in _texts(members.get(name)) if text not in lines
        ]
    return problems + _truth_problems("\n".join(_texts(members)), item, step)


def _paragraph_problems(text: str, step: Prose, opening: str) -> list[str]:
    problems = []
    text = text.strip()
    if opening and not text.startswith(opening):
        problems.append(f'it does not begin with "{opening}"')
    if (count := words(text)) < step.min_words:
        problems.append(f"{count} words, expected at least {step.min_words}")
    if (count := sentences(text)) < step.min_sentences:
        problems.append(f"{count} sentences, expected at least {step.min_sentences}")
    if not _PROPER_END.search(text):
        problems.append("it does not end as a sentence does")
    if "\n" in text:
        problems.append("it is more than one paragraph")
    if _LISTS.search(text):
        problems.append("it has a list or a heading in it")
    return problems


def _truth_problems(text: str, item: Mapping[str, Any], step: Prose) -> list[str]:
    problems = [f'"{left.group()}" is left of a template' for left in _LEFT_OVER.finditer(text)]
    problems += [f'"{said}" may not be in it' for said in step.forbidden if _says(text, said)]
    if step.numbers_from:
        known = numbers(_source(item, step.numbers_from))
        problems += [f"the number {number} is not in the input" for number in sorted(numbers(text) - known)]
    return problems


def _says(text: str, said: str) -> bool:
    """Whether a text has these words in it: "here is" is not in "there is"."""
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text, re.IGNORECASE) is not None


def _source(item: Mapping[str, Any], names: Iterable[str]) -> str:
    return "\n".join(line for name in names for line in _texts(item.get(name, "")))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, Mapping):
        for element in value.values():
            yield from _texts(element)
    elif isinstance(value, Iterable):
        for element in value:
            yield from _texts(element)
    else:
        yield str(value)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise ExecutionError("the model's text is not JSON", expected="a JSON object") from None
    if not isinstance(value, dict):
        raise ExecutionError("the model's text is not a JSON object", found=type(value).__name__)
    return value


def _prose_rules(step: Prose, item: Mapping[str, Any], *, as_json: bool) -> list[str]:
    """GBNF of `paragraph` and `line`."""
    fewest_words, most_words = WORDS_A_SENTENCE
    fewest = max(step.min_sentences, math.ceil(step.min_words / fewest_words), 1)
    known = _source(item, step.numbers_from)
    number = "".join(f" | {_literal(token)}" for token in _number_tokens(known)) if step.numbers_from else " | [0-9]+"
    refused = [name for name, value in _NAMED.items() if value not in numbers(known)] if step.numbers_from else []
    opening = _filled(step.opening, item)
    first = "sentence"
    if opening:
        said = words(opening)
        text = _literal(json.dumps(opening, ensure_ascii=False)[1:-1] if as_json else opening)
        first = f'{text} (","? " " word){{{max(fewest_words - said, 4)},{max(most_words - said, 8)}}} [.!]'
    return [
        f'paragraph ::= {first} (" " sentence){{{fewest - 1},{fewest - 1 + MORE_SENTENCES}}}',
        f'sentence ::= capital (","? " " word){{{fewest_words - 1},{most_words - 1}}} [.!]',
        f'line ::= capital (","? " " word){{0,{MOST_WORDS_OF_A_LINE - 1}}}',
        f"capital ::= upper ending?{number}",
        f"word ::= (upper | lower) ending?{number}",
        """ending ::= "-" lower | "'" ("s" | "t" | "re" | "ve" | "ll" | "d" | "m")""",
        *_word_rules("upper", refused, capital=True),
        *_word_rules("lower", refused, capital=False),
        "rest ::= [a-z]{0,15}",
    ]


def _word_rules(name: str, refused: Iterable[str], *, capital: bool) -> list[str]:
    """GBNF of any word but those refused: one rule for each beginning of a refused word."""
    refused = set(refused)
    beginnings = {""} | {word[:end] for word in refused for end in range(1, len(word) + 1)}
    rules = []
    for beginning in sorted(beginnings):
        following = sorted(
            {word[len(beginning)] for word in refused if word.startswith(beginning) and word != beginning}
        )
        upper = capital and not beginning
        choices = [
            f'"{letter.upper() if upper else letter}" {_rule_of(name, beginning + letter)}' for letter in following
        ]
        others = "".join(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in following)
        choices.append(f"[{others.upper() if upper else others}] rest")
        if beginning and beginning not in refused:
            choices.append('""')
        rules.append(f"{_rule_of(name, beginning)} ::= {' | '.join(choices)}")
    return rules


def _rule_of(name: str, beginning: str) -> str:
    return f"{name}-{beginning}" if beginning else name


def _filled(template: str, item: Mapping[str, Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: " ".join(_texts(item.get(match[1], ""))), template).strip()


def _number_tokens(source: str) -> list[str]:
    """Every number of the inputs as it is written, bare and with what it is written together with: 12, 12-inch."""
    tokens: dict[str, None] = {}
    for match in re.finditer(r"[^\s\"(){}\[\]<>;:|\\]*\d[^\s\"(){}\[\]<>;:|\\]*", source):
        tokens[match.group().strip(".,!?'")] = None
        tokens.update(dict.fromkeys(_NUMBER.findall(match.group())))
    return [token for token in tokens if token]


def _json_rules(schema: Mapping[str, Any], step: Prose, item: Mapping[str, Any]) -> list[str]:
    """GBNF of `object`, an object of texts and lists of texts; nothing for any other schema."""
    members = schema.get("properties", {})
    if schema.get("type") != "object" or not members or set(schema.get("required", ())) != set(members):
        return []
    pieces, rules = [], []
    for name, member in members.items():
        key = _literal(json.dumps(name) + ": ")
        if name in step.quotes:
            more = _quoting_rules(name, member, _lines(item, step.quotes[name]))
            rules += more
            value = f"{name}-0-0" if more else ""
        else:
            value = _member_rule(member, "paragraph" if name == step.input else "line")
        if not value:
            return []
        pieces.append(f"{key} {value}")
    return [f'object ::= "{{" {_literal(", ").join(f" {piece} " for piece in pieces)} "}}"', *rules]


def _member_rule(member: Mapping[str, Any], rule: str) -> str:
    text = rf'"\"" {rule} "\""'
    if member.get("type") == "string" and not set(member) - {"type", "description", "title"}:
        return text
    bounds = _bounds(member)
    return f'"[" {text} (", " {text}){{{bounds[0] - 1},{bounds[1] - 1}}} "]"' if bounds else ""


def _quoting_rules(name: str, member: Mapping[str, Any], lines: list[str]) -> list[str]:
    """GBNF of one of the lines, or of a list of them in their order, none twice. `name-I-K`: K are said, I is next."""
    if not lines:
        return []
    quoted = [_literal(json.dumps(line, ensure_ascii=False)) for line in lines]
    if member.get("type") == "string":
        return [f"{name}-0-0 ::= {' | '.join(quoted)}"]
    bounds = _bounds(member)
    if bounds is None:
        return []
    fewest, most = min(bounds[0], len(lines)), bounds[1]
    rules = []
    for said in range(most + 1):
        for index in range(said, len(lines) + 1):
            before = '"[" ' if said == 0 else '", " '
            choices = [
                f"{before}{quoted[at]} {name}-{at + 1}-{said + 1}"
                for at in range(index, len(lines))
                if said < most and len(lines) - at + said >= fewest
            ]
            choices += ['"]"'] if said >= fewest else []
            if choices and (index == 0 or said):
                rules.append(f"{name}-{index}-{said} ::= {' | '.join(choices)}")
    return rules


def _bounds(member: Mapping[str, Any]) -> tuple[int, int] | None:
    """The fewest and most elements of a list of plain texts; None where it is not one."""
    items = member.get("items")
    known = {"type", "items", "minItems", "maxItems", "uniqueItems", "description", "title"}
    if member.get("type") != "array" or not isinstance(items, Mapping) or set(member) - known:
        return None
    if items.get("type") != "string" or set(items) - {"type", "description"}:
        return None
    fewest, most = int(member.get("minItems", 1)), int(member.get("maxItems", 8))
    return (fewest, most) if 1 <= fewest <= most <= MOST_LINES else None


def _lines(item: Mapping[str, Any], name: str) -> list[str]:
    lines = (line.strip() for text in _texts(item.get(name, "")) for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))[:MOST_LINES]


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
