"""Where replay finds a policy: in a repository, by the digests that the log's entries name; or the one to be tried.

The package of that digest decided, so its policy is the one. Where it has gone, another version that brought the very
same `policy.toml` will do: a decision depends on the text, the facts and what the package declares of them.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

from onward.decide.audit import RecordedDecision
from onward.decide.conversation import dialogue_facts
from onward.decide.document import POLICY_FILE
from onward.decide.rules import Rules, load_policy, parse_policy
from onward.errors import ModelNotFound, NotFound, OnwardError, PolicyError
from onward.package.digest import LOCK_FILE
from onward.package.manifest import MANIFEST_FILE, load_manifest
from onward.package.package import open_package
from onward.package.repository import Repository
from onward.package.toml_text import load_toml
from onward.package.trust import read_trusted_lock


class PolicyShelf:
    """The policies of a repository's packages, each loaded when it is first asked for."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._found: dict[tuple[str, str], Rules | None] = {}

    def __call__(self, recorded: RecordedDecision) -> Rules | None:
        """The policy that made a decision, or None where no package has it."""
        key = (recorded.package.digest, recorded.policy_digest)
        if key not in self._found:
            self._found[key] = self._find(recorded)
        return self._found[key]

    def _find(self, recorded: RecordedDecision) -> Rules | None:
        name = recorded.package.name
        try:
            folders = [self._repository.path(name, version) for version in self._repository.versions(name)]
        except ModelNotFound:
            return None
        alike = [folder for folder in folders if _digest(folder / POLICY_FILE) == recorded.policy_digest]
        alike.sort(key=lambda folder: _package_digest(folder) != recorded.package.digest)
        for folder in alike:
            package = open_package(folder)
            return load_policy(package.folder, package.manifest)
        return None


class Candidate:
    """A policy to be tried on decisions that others made, checked against the package each of them is of.

    The package is the one whose manifest lies beside the policy, or else the newest in the repository of the
    decision's package. `name` says whose decisions it concerns.
    """

    def __init__(self, file: Path, repository: Repository | None) -> None:
        self._text = read_policy_text(file)
        self._repository = repository
        self._rules: dict[str, Rules | None] = {}
        self._own: Rules | None = None
        if (file.parent / MANIFEST_FILE).is_file():
            self._own = parse_policy(self._text, load_manifest(file.parent), more=dialogue_facts(file.parent))
            self.name = self._own.name
        else:
            self.name = _name_in(self._text)
            if not self.name:
                expected = f"a name in [policy], or {MANIFEST_FILE} beside the file"
                raise PolicyError("nobody knows whose policy this is", where=str(file), expected=expected)

    def __call__(self, recorded: RecordedDecision) -> Rules | None:
        """The policy, read against the package of the decision; None where there is none in the repository."""
        if self._own is not None:
            return self._own
        name = recorded.package.name
        if name not in self._rules:
            self._rules[name] = self._read_for(name)
        return self._rules[name]

    def _read_for(self, name: str) -> Rules | None:
        if self._repository is None:
            return None
        try:
            folder = self._repository.path(name)
        except ModelNotFound:
            return None
        package = open_package(folder)
        return parse_policy(self._text, package.manifest, more=dialogue_facts(package.folder))


def read_policy_text(file: Path) -> str:
    """The text of a policy's file. Raises `NotFound` or `PolicyError`."""
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound("no such policy", where=str(file)) from None
    except UnicodeDecodeError as error:
        raise PolicyError("not valid UTF-8", where=str(file), found=str(error)) from None


def tests_in(text: str) -> list[str]:
    """The names of a valid policy's tests."""
    return [str(test.get("name", "")) for test in load_toml(text).get("test", [])]


def _name_in(text: str) -> str:
    try:
        policy = load_toml(text).get("policy", {})
    except tomllib.TOMLDecodeError as error:
        raise PolicyError("not valid TOML", found=str(error)) from None
    return str(policy.get("name", "")) if isinstance(policy, dict) else ""


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _package_digest(folder: Path) -> str:
    try:
        return read_trusted_lock(folder).digest if (folder / LOCK_FILE).is_file() else ""
    except OnwardError:
        return ""
