"""Which Python distributions an image installs, each pinned by version and hashes.

`images.lock` beside this file holds all that a server may need, with who needs what; an image gets what its packages
need of it. `nodes.lock` is the same with Ray, which wants extras of what a server has without them. Asks nobody on a
network, and does not care what is installed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from onward.errors import MissingExtra

LOCK = Path(__file__).with_name("images.lock")
NODES_LOCK = Path(__file__).with_name("nodes.lock")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_NEEDED_BY = re.compile(r"#\s+(?:via\s+)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\s+\(pyproject\.toml\))?")
_REQUIRED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)")
_OF_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One distribution at one version; `hashes` are those of all its files, for whatever machine."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: frozenset[str]

    def line(self) -> str:
        """As it stands in a requirements file."""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker}" + "".join(f" \\\n    --hash={one}" for one in self.hashes)


def pins(extras: Iterable[str], lock: Path | None = None) -> tuple[Pin, ...]:
    """What Onward with these extras needs, by name. Raises `MissingExtra` where the lock does not have it."""
    extras = frozenset(extras)
    lock = lock or (NODES_LOCK if "ray" in extras else LOCK)
    known = {pin.name: pin for pin in read_lock(lock)}
    wanted = {name for extra in ("", *extras) for name in _direct().get(extra, ())}
    missing = sorted(wanted - known.keys())
    if missing:
        raise MissingExtra("not in the lock of images", where=lock.name, expected=", ".join(missing))
    found: set[str] = set()
    while wanted:
        found |= wanted
        wanted = {pin.name for pin in known.values() if pin.needed_by & wanted} - found
    return tuple(known[name] for name in sorted(found))


def read_lock(lock: Path = LOCK) -> tuple[Pin, ...]:
    """Every pin of a lock with its hashes and, in comments behind it, who needs it."""
    entries: list[tuple[re.Match[str], list[str], set[str]]] = []
    for line in lock.read_text("utf-8").splitlines():
        text = line.strip()
        begun = _PIN.fullmatch(text)
        if begun is not None and not line.startswith(" "):
            entries.append((begun, [], set()))
        elif entries and text.startswith("--hash="):
            entries[-1][1].extend(_HASH.findall(text))
        elif entries and (needed := _NEEDED_BY.fullmatch(text)) is not None:
            entries[-1][2].add(canonical(needed["name"]))
    return tuple(
        Pin(name=canonical(begun["name"]), version=begun["version"], marker=begun["marker"] or "",
            hashes=tuple(hashes), needed_by=frozenset(needed_by))
        for begun, hashes, needed_by in entries
    )  # fmt: skip


def canonical(name: str) -> str:
    """A distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _direct() -> Mapping[str, set[str]]:
    """What Onward itself requires, by extra ("": always)."""
    found: dict[str, set[str]] = {}
    for requirement in metadata.requires("onward") or ():
        name, extra = _REQUIRED.match(requirement), _OF_EXTRA.search(requirement)
        if name is not None:
            found.setdefault(extra["extra"] if extra else "", set()).add(canonical(name["name"]))
    return found
