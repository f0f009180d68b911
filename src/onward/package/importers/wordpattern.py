r"""Python's regular expressions of tokens, written for the tokenizer: `\w` means other characters to each engine.

Every class is spelt out: Python's `\w` is letters, numbers of any kind and `_`; `\b` is where such a character meets
another. What cannot be said so is refused.
"""

from __future__ import annotations

from onward.errors import UsageError

WORD = r"\p{L}\p{N}_"
SPACE = r"\s\x1c-\x1f"
"""Python's white space: Unicode's, and the four separators of ASCII."""
_CLASSES = {"w": WORD, "s": SPACE, "d": r"\p{Nd}"}
_BOUNDARY = f"(?:(?<=[{WORD}])(?![{WORD}])|(?<![{WORD}])(?=[{WORD}]))"
_KNOWN = {r"(?u)\b\w\w+\b": f"[{WORD}]{{2,}}", r"\b\w\w+\b": f"[{WORD}]{{2,}}", r"(?u)\b\w+\b": f"[{WORD}]+",
          r"\b\w+\b": f"[{WORD}]+", r"(?u)\w+": f"[{WORD}]+", r"\w+": f"[{WORD}]+"}  # fmt: skip


def words_of(pattern: str, stop_words: frozenset[str] = frozenset()) -> str:
    """The pattern of words for the tokenizer. Those of `stop_words` are none: only patterns of whole words allow it."""
    if pattern in _KNOWN:
        known = _KNOWN[pattern]
        if not stop_words:
            return known
        stopped = "|".join(map(_quoted, sorted(stop_words)))
        return f"(?<![{WORD}])(?!(?:{stopped})(?![{WORD}])){known}"
    if stop_words:
        raise _refusal("a pattern of its own, stop words and n-grams of several words", "one of these only", pattern)
    return _translated(pattern)


def _quoted(word: str) -> str:
    return "".join(f"\\{letter}" if letter in r"^$\.*+?()[]{}|/" else letter for letter in word)


def _translated(pattern: str) -> str:
    rest, made, in_class = pattern.removeprefix("(?u)"), "", False
    while rest:
        here, rest = rest[0], rest[1:]
        if here == "\\":
            if not rest:
                raise _refusal("a pattern that ends in a backslash", "a regular expression", pattern)
            here, rest = rest[0], rest[1:]
            made += _escaped(here, pattern, in_class)
        elif here == "[" and not in_class:
            made, in_class = made + here, True
            if rest[:1] == "^":
                made, rest = made + "^", rest[1:]
            if rest[:1] == "]":
                made, rest = made + r"\]", rest[1:]
        elif here == "[" or (here == "&" and in_class):  # the tokenizer has sets within sets
            made += "\\" + here
        elif here == "(" and not in_class and not rest.startswith(("?:", "?=", "?!", "?<=", "?<!")):
            raise _refusal("a group, or a flag, in the token pattern", "groups of the kind (?:…)", pattern)
        elif here == "." and not in_class:
            made += r"[^\n]"
        else:
            in_class = in_class and here != "]"
            made += here
    return made


def _escaped(letter: str, pattern: str, in_class: bool) -> str:
    if letter in _CLASSES:
        return _CLASSES[letter] if in_class else f"[{_CLASSES[letter]}]"
    if letter.lower() in _CLASSES and not in_class:
        return f"[^{_CLASSES[letter.lower()]}]"
    if letter == "b" and not in_class:
        return _BOUNDARY
    if letter in "tnr" or not letter.isalnum():
        return "\\" + letter
    raise _refusal(f"\\{letter} in the token pattern", r"\w \s \d \b and plain characters", pattern)


def _refusal(what: str, expected: str, pattern: str) -> UsageError:
    return UsageError(f"the vectoriser has {what}", expected=expected, found=pattern)
