"""What a dialogue adds to a policy's `input`: the `[facts]` of the `dialogue.toml` beside it, with their types.

Reads that one table; everything else in the file is `onward.dialogue`'s to check.
"""

from __future__ import annotations

from pathlib import Path

from onward.decide.variables import Variable, is_writable, read_type
from onward.errors import PolicyError
from onward.package.manifest import DIALOGUE_FILE
from onward.package.sections import Document

_ZEROS = {"string": "", "number": 0.0, "integer": 0, "boolean": False}


def dialogue_facts(folder: Path) -> dict[str, Variable]:
    """The facts of a package folder's dialogue, {path: variable}; empty where it has none.

    A fact that is not given is "", 0 or false, so that rules need no `has()`. Raises `PolicyError` or `ManifestError`.
    """
    file = folder / DIALOGUE_FILE
    if not file.is_file():
        return {}
    document = Document(file.read_text("utf-8", errors="replace"), DIALOGUE_FILE)
    found = {}
    for name, word in document.section("facts").values.items():
        kind = read_type(word) if isinstance(word, str) and word in _ZEROS else None
        if kind is None or not is_writable(name):
            where = f"{DIALOGUE_FILE}:{document.lines.get(f'facts.{name}', 1)}: facts.{name}"
            expected = f"NAME = one of {', '.join(_ZEROS)}"
            raise PolicyError("not a fact", where=where, expected=expected, found=str(word)[:80])
        variable = Variable(root="input", keys=(name,), type=kind, default=_ZEROS[word])
        found[variable.path] = variable
    return found
