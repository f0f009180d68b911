"""An image gets what its packages need of the lock, and all of what that needs."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from onward.errors import MissingExtra
from onward.runners.cloud import distributions
from onward.runners.cloud.distributions import LOCK, canonical, pins, read_lock

SERVE = Path(__file__).parents[4] / "requirements" / "serve.lock"


def test_without_extras_it_is_what_the_servers_lock_has() -> None:
    known = {canonical(name): version for name, version in re.findall(r"^(\S+)==(\S+)", SERVE.read_text("utf-8"), re.M)}
    assert {pin.name: pin.version for pin in pins([])} == known


@pytest.mark.parametrize("extra", ["decide", "postgres", "llm", "speech", "phonemes"])
def test_an_extra_brings_what_it_needs_and_nothing_is_lost(extra: str) -> None:
    without, found = {pin.name for pin in pins([])}, {pin.name for pin in pins([extra])}
    assert without < found
    required = metadata.requires("onward") or ()
    wanted = {canonical(re.split(r"[\[<>=!~; ]", one)[0]) for one in required if f"extra == '{extra}'" in one}
    assert wanted <= found


def test_what_an_installed_distribution_requires_is_pinned_with_it() -> None:
    found = {pin.name for pin in pins(["decide", "speech", "llm"])}
    environment = {"sys_platform": "linux"}
    for name in sorted(found):
        try:
            required = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            continue
        for line in map(Requirement, required):
            if line.marker is None or line.marker.evaluate({"extra": "", **environment}):
                assert canonical(line.name) in found, f"{name} requires {line}"


def test_every_pin_has_hashes_and_stands_in_the_form_that_pip_reads() -> None:
    for pin in read_lock():
        assert pin.hashes, pin.name
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", pin.line())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    copy = tmp_path / "copy.lock"
    copy.write_text("\n".join(pin.line() for pin in read_lock()) + "\n", "utf-8")
    told = [(pin.name, pin.version, pin.marker, pin.hashes) for pin in read_lock()]
    assert [(pin.name, pin.version, pin.marker, pin.hashes) for pin in read_lock(copy)] == told


def test_what_the_lock_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "_direct", lambda: {"": {"numpy"}, "ray": {"ray"}})
    with pytest.raises(MissingExtra, match="ray"):
        pins(["ray"], LOCK)
