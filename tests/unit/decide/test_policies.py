"""The policies that replay finds are read from packages that were verified, by the policy of signatures too."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import onward
from onward.decide.audit import RecordedDecision
from onward.decide.policies import Candidate, PolicyShelf
from onward.decide.policy import Facts
from onward.errors import DigestMismatch, NotSigned
from onward.package.digest import Lock, parse_lock
from onward.package.repository import Repository
from onward.package.trust import TRUST_VARIABLE, sign_folder
from onward.testing import tiny_package
from onward.types import Decision, PackageId
from tests.keys import key_pair
from tests.unit.decide.policies import HEAD

TEXT = HEAD.replace('version = "1"', 'name = "tiny"\nversion = "1"')
Finder = Callable[[Path], Callable[[RecordedDecision], object]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The package "tiny" with its policy, in a repository."""
    made = tiny_package(tmp_path / "tiny", lock=False)
    (made / "policy.toml").write_text(TEXT)
    packed = tmp_path / "repository" / "tiny" / "1.0.0"
    onward.pack(made, packed)
    return packed


def candidate(root: Path) -> Callable[[RecordedDecision], object]:
    file = root.parent / "candidate.toml"
    file.write_text(TEXT)
    return Candidate(file, Repository(root))


def shelf(root: Path) -> Callable[[RecordedDecision], object]:
    return PolicyShelf(Repository(root))


def recorded(folder: Path) -> RecordedDecision:
    return RecordedDecision(
        decision_id="d", tenant="t", package=PackageId(name="tiny", version="1.0.0", digest="0" * 64), policy="tiny",
        policy_version="1", policy_digest=hashlib.sha256(TEXT.encode()).hexdigest(),
        facts=Facts(answer=None, input={}, profile={}, now_s=0.0), decision=Decision(outcome="approve", rule="default"),
    )  # fmt: skip


@pytest.mark.parametrize("find", [candidate, shelf])
@pytest.mark.parametrize("path", ["onward.toml", "model.onnx", "dialogue.toml"])
def test_a_package_that_changed_is_not_read(folder: Path, find: Finder, path: str) -> None:
    found = find(folder.parents[1])
    (folder / path).write_bytes(b"not TOML [[[")
    with pytest.raises(DigestMismatch):
        found(recorded(folder))


@pytest.mark.parametrize("find", [candidate, shelf])
def test_only_what_was_signed_is_read(
    tmp_path: Path, folder: Path, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = key_pair(tmp_path)
    monkeypatch.setenv(TRUST_VARIABLE, str(keys.public))
    with pytest.raises(NotSigned):
        find(folder.parents[1])(recorded(folder))
    sign_folder(folder, keys.private)
    assert find(folder.parents[1])(recorded(folder)) is not None


def test_no_lock_is_parsed_that_was_not_signed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = key_pair(tmp_path)
    sign_folder(folder, keys.private)
    other = Path(shutil.copytree(folder, folder.parent / "2.0.0"))
    (other / "onward.sig").unlink()
    monkeypatch.setenv(TRUST_VARIABLE, str(keys.public))
    parsed: list[Path] = []

    def watched(data: bytes, place: Path) -> Lock:
        parsed.append(place)
        return parse_lock(data, place)

    for module in ("digest", "trust"):
        monkeypatch.setattr(f"onward.package.{module}.parse_lock", watched)
    assert shelf(folder.parents[1])(recorded(folder)) is not None
    assert folder in parsed and other not in parsed
