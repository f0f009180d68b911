"""What became of a model that moved here: the package, what did not carry over, or why it was refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward.errors import OnwardError
from onward.package.manifest import is_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One model. `notes` say what did not carry over.

    Where it was refused, `refused` says why and `code` by which error. `rows` says on how many rows the package was
    compared with the original.
    """

    source: str
    name: str = ""
    version: str = ""
    digest: str = ""
    path: Path | None = None
    rows: int = 0
    notes: tuple[str, ...] = ()
    refused: str = ""
    code: str = ""

    @staticmethod
    def refusal(source: str, error: OnwardError, *, version: str = "") -> Moved:
        """A model that is not imported, for the reason that the error gives."""
        return Moved(source=source, version=version, refused=str(error), code=error.code)

    def as_record(self) -> Mapping[str, Any]:
        """The same as JSON holds it: only what there is to say."""
        values = {"source": self.source, "name": self.name, "version": self.version, "digest": self.digest}
        values |= {"path": str(self.path) if self.path else "", "refused": self.refused, "code": self.code}
        record: dict[str, Any] = {key: value for key, value in values.items() if value}
        if not self.refused:
            record |= {"compared": self.rows > 0, "rows": self.rows}
        return record | {"notes": list(self.notes)}


def package_name(name: str) -> str:
    """A package's name for a model's: the same where it can be, else in small letters and without other signs."""
    if is_name(name):
        return name
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return (plain if plain[:1].isalpha() else f"model-{plain}")[:64].strip("-_")
