"""`dialogue.toml`: read and checked, every problem with its line. Knows nothing of conversations under way."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from onward.dialogue.records import (
    FACT_OF_SLOT,
    STANDARD_FACTS,
    ZERO_OF_FACT,
    Article,
    Definition,
    Intent,
    Lookup,
    Request,
    Say,
    Settings,
    Slot,
    SlotType,
)
from onward.errors import ManifestError
from onward.package.manifest import DIALOGUE_FILE
from onward.package.records import Labels, Manifest
from onward.package.sections import TEXT_LIMIT_BYTES, Document, Section, shown, suggestion
from onward.package.signature import read_labels

FORMAT = 1
WORDS = (
    "yes",
    "no",
    "stop",
    "human",
    "other",
    "last",
    "first",
    "question",
    "polite",
    "filler",
    "everything",
    "meant",
    "negation",
)
_TYPES: tuple[str, ...] = get_args(SlotType)
_NAME = r"[a-z][a-z0-9_]{0,39}"
_NAMED = "a lower-case letter, then up to 39 of a-z, 0-9 and _"
_MEANINGS = ("yes", "no", "human")
FORMATS = ("", "date", "money", "list")
ROOTS = ("profile", "arguments", "receipt", "article", "quote")
_MAX_PATTERN = 400
_MAX_ARTICLES_BYTES = 8 << 20


def load_definition(folder: Path, manifest: Manifest) -> Definition:
    """Read the dialogue of a package folder and what it names. Raises `ManifestError` with file, line and key."""
    file = folder / DIALOGUE_FILE
    data = file.read_bytes()
    if len(data) > TEXT_LIMIT_BYTES:
        raise ManifestError("the file is too large", where=DIALOGUE_FILE, expected=f"at most {TEXT_LIMIT_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError("not valid UTF-8", where=f"{DIALOGUE_FILE}:{line}", expected="TOML in UTF-8") from None
    document = Document(text, DIALOGUE_FILE)
    features = frozenset(feature.name for feature in manifest.features)
    settings = _settings(document.section("dialogue"))
    articles = _articles(document, folder, settings.articles)
    slots = {slot.name: slot for slot in (_slot(section, features) for section in document.tables("slot"))}
    requests = {each.name: each for each in (_request(s, slots, articles) for s in document.tables("request"))}
    definition = Definition(
        settings=settings,
        facts=_facts(document.section("facts"), slots),
        words=_words(document.section("words")),
        slots=slots,
        requests=requests,
        intents=_intents(document, requests, articles, _labels(folder, manifest)),
        says=_says(document, slots, features),
        articles=articles,
    )
    _check_top(document)
    _check_said(document, definition)
    document.raise_problems()
    return definition


def _check_top(document: Document) -> None:
    top = document.section()
    if top.take("format") != FORMAT:
        document.problem("format", "missing or unknown", expected=f"format = {FORMAT}, before the first table")
    for key in ("dialogue", "facts", "words", "slot", "request", "intent", "say"):
        top.take(key)
    top.close()


def _settings(section: Section) -> Settings:
    usual = Settings()
    settings = Settings(
        language=section.text("language", usual.language, pattern=r"[a-z]{2}", expected='a language such as "en"'),
        articles=section.file("articles", ""),
        misunderstandings=section.integer("misunderstandings", usual.misunderstandings, minimum=1, maximum=10),
        max_characters=section.integer("max_characters", usual.max_characters, minimum=50, maximum=20_000),
        least_score=_share(section, "least_score", usual.least_score),
        least_known=_share(section, "least_known", usual.least_known),
    )
    section.close()
    return settings


def _share(section: Section, name: str, default: float) -> float:
    value = section.number(name)
    if value is not None and not 0 <= value <= 1:
        section.problem(name, "out of range", expected="a number from 0 to 1", found=shown(value))
    return default if value is None else value


def _facts(section: Section, slots: Mapping[str, Slot]) -> Mapping[str, str]:
    """What the policy is told must be written down here, since the policy's types are read from it."""
    wanted = dict(STANDARD_FACTS) | {slot.name: FACT_OF_SLOT[slot.type] for slot in slots.values()}
    for name, kind in wanted.items():
        found = section.take(name)
        if found != kind:
            problem = "missing" if found is None else "wrong type"
            section.problem(name, problem, expected=f'{name} = "{kind}"', found="" if found is None else shown(found))
    section.close()
    assert set(wanted.values()) <= set(ZERO_OF_FACT)
    return wanted


def _words(section: Section) -> Mapping[str, tuple[str, ...]]:
    words = {name: section.names(name, ()) for name in WORDS}
    section.close()
    return {name: tuple(sorted((word.lower() for word in some), key=len, reverse=True)) for name, some in words.items()}


def _slot(section: Section, features: frozenset[str]) -> Slot:
    name = section.text("name", pattern=_NAME, expected=_NAMED)
    kind = section.text("type", choices=_TYPES)
    if name in STANDARD_FACTS:
        section.problem("name", "is a fact of every dialogue", expected="another name", found=shown(name))
    slot = Slot(
        name=name,
        type=cast(SlotType, kind if kind in _TYPES else "text"),
        pattern=_pattern(section, "pattern", required=kind == "pattern"),
        form=section.text("form", "{}"),
        names=_names(section) if kind == "choice" else {},
        among=_feature(section, "among", features),
        lookup=_lookup(section, features),
        minimum=section.number("minimum"),
        maximum=section.number("maximum"),
        currency=section.text("currency", "", pattern=r"[A-Z]{3}", expected='a currency such as "EUR"'),
        max_days=section.integer("max_days", 0, minimum=1, maximum=3660),
    )
    section.close()
    return slot


def _feature(section: Section, name: str, features: frozenset[str]) -> str:
    value = section.text(name, "")
    if value and value not in features:
        found = f'"{value}"{suggestion(value, features)}'
        section.problem(name, "no such feature", expected="a [[feature]] of onward.toml", found=found)
    return value


def _lookup(section: Section, features: frozenset[str]) -> Lookup | None:
    value = section.take("lookup")
    if value is None:
        return None
    table = section.document.table(section.key("lookup"), value)
    lookup = Lookup(
        slot=table.text("slot"), keys=_feature(table, "keys", features), values=_feature(table, "values", features)
    )
    table.close()
    return lookup


def _pattern(section: Section, name: str, *, required: bool) -> re.Pattern[str] | None:
    text = section.text(name, None if required else "")
    if not text:
        return None
    if len(text) > _MAX_PATTERN:
        section.problem(name, "too long", expected=f"at most {_MAX_PATTERN} characters")
        return None
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        section.problem(name, "not a regular expression", expected="one in Python's syntax", found=str(error))
        return None


def _names(section: Section) -> Mapping[str, tuple[str, ...]]:
    value = section.take("names")
    if not isinstance(value, dict) or not value:
        section.problem("names", "missing", expected='names = { premium = ["the big one"], … }')
        return {}
    table = Section(section.document, section.key("names"), value)
    return {key: tuple(map(str.lower, table.names(key, ()))) if value[key] else () for key in value}


def _request(section: Section, slots: Mapping[str, Slot], articles: Mapping[str, Article]) -> Request:
    request = Request(
        name=section.text("name", pattern=_NAME, expected=_NAMED),
        slots=section.names("slots", ()) if section.values.get("slots") else _none(section, "slots"),
        optional=section.names("optional", ()),
        confirm=section.flag("confirm", True),
        words=tuple(map(str.lower, section.names("words", ()))),
        article=section.text("article", ""),
    )
    for key in ("slots", "optional"):
        for index, name in enumerate(getattr(request, key)):
            if name not in slots:
                found = f'"{name}"{suggestion(name, slots)}'
                section.problem(f"{key}[{index}]", "no such slot", expected="the name of a [[slot]]", found=found)
    _known(section, "article", request.article, articles, "an article's id")
    section.close()
    return request


def _none(section: Section, name: str) -> tuple[str, ...]:
    section.take(name)
    return ()


def _known(section: Section, key: str, value: str, known: Mapping[str, Any], expected: str) -> None:
    if value and value not in known:
        section.problem(
            key, "there is none of this name", expected=expected, found=f'"{value}"{suggestion(value, known)}'
        )


def _labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    for step in manifest.generate:
        if isinstance(step, Labels) and step.output == "label" and (folder / step.file).is_file():
            return read_labels(folder / step.file)
    return ()


def _intents(
    document: Document, requests: Mapping[str, Request], articles: Mapping[str, Article], labels: tuple[str, ...]
) -> Mapping[str, Intent]:
    intents = {}
    for section in document.tables("intent"):
        intent = Intent(
            name=section.text("name"),
            request=section.text("request", ""),
            say=section.text("say", ""),
            answer=section.flag("answer", False),
            article=section.text("article", ""),
            means=section.text("means", "", choices=_MEANINGS),  # type: ignore[arg-type]
        )
        section.close()
        if labels and intent.name not in labels:
            found = f'"{intent.name}"{suggestion(intent.name, labels)}'
            section.problem("name", "the model has no such label", expected="a line of the labels' file", found=found)
        if sum((bool(intent.request), bool(intent.say), intent.answer, bool(intent.means))) != 1:
            section.problem("", "not one meaning", expected="one of request, say, answer = true, means")
        _known(section, "request", intent.request, requests, "the name of a [[request]]")
        _known(section, "article", intent.article, articles, "an article's id")
        intents[intent.name] = intent
    return intents


def _says(document: Document, slots: Mapping[str, Slot], features: frozenset[str]) -> Mapping[str, tuple[Say, ...]]:
    says: dict[str, list[Say]] = {}
    for section in document.tables("say"):
        when = section.take("when") or {}
        say = Say(
            key=section.text("key"), text=section.text("text"), language=section.text("language", ""),
            when=when if isinstance(when, dict) else {},
        )  # fmt: skip
        section.close()
        for name in say.when:
            if name not in features:
                found = f'"{name}"{suggestion(name, features)}'
                section.problem("when", "no such feature", expected="features of onward.toml", found=found)
        _check_template(section, say.text, slots, features)
        says.setdefault(say.key, []).append(say)
    return {key: tuple(some) for key, some in says.items()}


def _check_template(section: Section, text: str, slots: Mapping[str, Slot], features: frozenset[str]) -> None:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        section.problem("text", "not a template", expected="{name} or {name|format}", found=str(error))
        return
    for field in fields:
        name, _, style = field.partition("|")
        root, _, rest = name.partition(".")
        if style not in FORMATS:
            section.problem("text", "no such format", expected=f"one of {', '.join(FORMATS[1:])}", found=f'"{style}"')
        if root == "profile" and rest not in features:
            found = f'"{rest}"{suggestion(rest, features)}'
            section.problem("text", "no such feature", expected="a [[feature]] of onward.toml", found=found)
        elif root not in ROOTS and name not in slots and name not in ("options", "limit"):
            expected = f"a slot, options, limit, or a value of {', '.join(ROOTS)}"
            section.problem(
                "text", "nothing is called this", expected=expected, found=f'"{name}"{suggestion(name, slots)}'
            )


#: What every dialogue must have words for.
_MUST_SAY = ("unknown", "unclear", "handover", "held", "abort", "offer", "answer", "act.done", "act.pending",
             "act.waiting", "act.failed", "act.refused", "act.later", "welcome", "unavailable",
             "handover.failed")  # fmt: skip


def _check_said(document: Document, definition: Definition) -> None:
    """Nothing may be left without words: a reply is never empty."""
    needed = list(_MUST_SAY)
    for request in definition.requests.values():
        needed += [f"{request.name}.confirm"]
        needed += [f"{request.name}.ask.{slot}" if f"{request.name}.ask.{slot}" in definition.says else f"ask.{slot}"
                   for slot in request.slots]  # fmt: skip
    needed += [intent.say for intent in definition.intents.values() if intent.say]
    for key in dict.fromkeys(needed):
        # The last variant must fit always: any language, any profile, no value that might be missing.
        if not any(not say.language and not say.when for say in definition.says.get(key, ())):
            document.problem(
                "say", f'no words for "{key}"', expected=f'a [[say]] with key = "{key}", language and when left out'
            )


def _articles(document: Document, folder: Path, name: str) -> Mapping[str, Article]:
    if not name:
        return {}
    file = folder / name
    if not file.is_file() or file.stat().st_size > _MAX_ARTICLES_BYTES:
        document.problem("dialogue.articles", "no such file, or too large", expected="JSON Lines", found=f'"{name}"')
        return {}
    articles: dict[str, Article] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            article = Article(
                article_id=str(row["id"]), title=str(row["title"]), url=str(row.get("url", "")),
                sentences=tuple(str(sentence) for sentence in row["sentences"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            expected = '{"id", "title", "sentences"} on each line'
            raise ManifestError(f"not an article: {error}", where=f"{name}:{number}", expected=expected) from None
        articles[article.article_id] = article
    return articles
