"""The operator's `actions.toml`: what each action of a policy may reach, and for which packages.

Nothing is allowed that is not written here. Secrets come from the environment or from files, are read when the file is
loaded, and stand in no record, error or log. Reference: docs/reference/actions.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from onward.act.backoff import Backoff
from onward.act.command import Command, argv_problem
from onward.act.entry import ENTRY, Entry
from onward.act.sql import Sql, statement_problem
from onward.act.webhook import Webhook, secret_bytes, url_problem
from onward.errors import ManifestError, OnwardError
from onward.package.sections import Document, ManifestProblems, Section

KINDS = ("webhook", "sql", "command", "python", "queue")
_NAME = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_STATUS_PLACEHOLDERS = ("action_id", "idempotency_key", "decision_id", "tenant")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MAX_SECRET_BYTES = 4096


class TargetsError(OnwardError):
    """`actions.toml` is not valid."""

    code = "INVALID_TARGETS"
    status = 500
    exit_code = 65

    def __init__(self, message: str = "", *, problems: Iterable[str] = (), **details: str) -> None:
        super().__init__(message, **details)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A message queue: a seam without a client. The relay leaves its actions to an executor given by the program."""

    timeout_s: float = 10.0


How: TypeAlias = Webhook | Sql | Command | Entry | Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one action does for the packages named, and how patiently. Times in seconds.

    `undone_by`: when one of these actions of the same decision goes DEAD, this one is compensated if it is DONE, and
    not begun any more if it is not.
    """

    action: str
    packages: tuple[str, ...]
    kind: str
    how: How
    concurrency: int = 4
    max_attempts: int = 8
    backoff: Backoff = field(default_factory=Backoff)
    breaker_failures: int = 5
    breaker_rest_s: float = 10.0
    reconcile_after_s: float = 10.0
    approval: bool = False
    dry_run: bool = False
    undone_by: tuple[str, ...] = ()

    @property
    def timeout_s(self) -> float:
        """How long one try may take."""
        return self.how.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """All that is allowed."""

    targets: tuple[Target, ...] = ()

    @classmethod
    def none(cls) -> Targets:
        """Nothing is allowed."""
        return cls()

    @property
    def names(self) -> tuple[str, ...]:
        """The actions that have a target for some package."""
        return tuple(dict.fromkeys(target.action for target in self.targets))

    def find(self, action: str, package: str) -> Target | None:
        """The target of an action for a package, None where it is not allowed."""
        for target in self.targets:
            if target.action == action and package in target.packages:
                return target
        return None


def load_targets(path: Path, *, environment: Mapping[str, str] | None = None) -> Targets:
    """Read `actions.toml`. Raises `TargetsError` with every problem and its line."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise TargetsError(f"cannot be read: {error.strerror}", where=path.name) from error
    except UnicodeDecodeError:
        raise TargetsError("not UTF-8", where=path.name) from None
    return parse_targets(text, path.name, path.parent, os.environ if environment is None else environment)


def parse_targets(text: str, file: str, folder: Path, environment: Mapping[str, str]) -> Targets:
    """Read a text; relative paths in it start at `folder`. Raises `TargetsError`."""
    try:
        document = Document(text, file)
        reading = _Reading(document, folder, environment)
        targets = reading.targets()
        document.raise_problems()
    except ManifestProblems as error:
        raise TargetsError(str(error), problems=[str(problem) for problem in error.problems]) from None
    except ManifestError as error:
        details = {"where": error.where, "expected": error.expected, "found": error.found}
        raise TargetsError(error.message, problems=[str(error)], **details) from None
    return Targets(targets=targets)


class _Reading:
    """One pass over the document."""

    def __init__(self, document: Document, folder: Path, environment: Mapping[str, str]) -> None:
        self._document = document
        self._folder = folder
        self._environment = environment
        self._connections: dict[str, str] = {}

    def targets(self) -> tuple[Target, ...]:
        top = self._document.section()
        if top.take("format") != 1:
            top.problem("format", "not a format that this version reads", expected="format = 1")
        top.take("target")
        connections = top.take("connection")
        if connections is not None:
            self._read_connections(connections)
        found: list[Target] = []
        for section in self._document.tables("target"):
            target = self._target(section)
            for package in target.packages:
                if any(other.action == target.action and package in other.packages for other in found):
                    section.problem("packages", "the action has a target for this package already", found=package)
            found.append(target)
        top.close()
        return tuple(found)

    def _read_connections(self, value: object) -> None:
        named = self._document.table("connection", value)
        for name in named.values:
            section = self._document.table(f"connection.{name}", named.values[name])
            self._connections[name] = self._secret(section, "url", required=True)
            section.close()

    def _target(self, section: Section) -> Target:
        kind = section.text("kind", choices=KINDS)
        target = Target(
            action=section.text("action", pattern=_NAME, expected="the name of an action in policies"),
            packages=section.names("packages", kind="package names"),
            kind=kind,
            how=self._how(kind, section),
            concurrency=section.integer("concurrency", 4, minimum=1, maximum=1000),
            max_attempts=section.integer("max_attempts", 8, minimum=1, maximum=1000),
            backoff=Backoff(
                first_s=_seconds(section, "backoff_s", 1.0), longest_s=_seconds(section, "max_backoff_s", 300.0)
            ),
            breaker_failures=section.integer("breaker_failures", 5, minimum=1, maximum=1000),
            breaker_rest_s=_seconds(section, "breaker_rest_s", 10.0),
            reconcile_after_s=_seconds(section, "reconcile_after_s", 10.0),
            approval=section.flag("approval", False),
            dry_run=section.flag("dry_run", False),
            undone_by=section.names("undone_by", (), kind="action names"),
        )
        section.close()
        return target

    def _how(self, kind: str, section: Section) -> How:
        timeout_s = _seconds(section, "timeout_s", 10.0, maximum=600.0)
        match kind:
            case "webhook":
                return self._webhook(section, timeout_s)
            case "sql":
                return self._sql(section, timeout_s)
            case "command":
                return self._command(section, timeout_s)
            case "python":
                return self._python(section, timeout_s)
        return Queue(timeout_s=timeout_s)

    def _webhook(self, section: Section, timeout_s: float) -> Webhook:
        allow_private = section.flag("allow_private", False)
        url = section.text("url")
        status_url = section.text("status_url", "")
        for key, value in (("url", url), ("status_url", status_url)):
            self._check_url(section, key, value, allow_private=allow_private)
        written = self._secret(section, "secret", required=False).split()
        secrets: list[bytes] = []
        for one in written:
            try:
                secrets.append(secret_bytes(one))
            except ValueError:
                section.problem("", "the secret is not valid", expected="whsec_ followed by base64, or any other text")
        return Webhook(
            url=url,
            status_url=status_url,
            allow_private=allow_private,
            timeout_s=timeout_s,
            ca_file=self._path(section, "ca_file"),
            secrets=tuple(secrets),
            headers=self._headers(section),
        )

    def _check_url(self, section: Section, key: str, url: str, *, allow_private: bool) -> None:
        if not url and key == "status_url":
            return
        names = set(re.findall(r"\{([^{}]*)\}", url))
        allowed = _STATUS_PLACEHOLDERS if key == "status_url" else ()
        unknown = sorted(names - set(allowed))
        if unknown or "{" in re.sub(r"\{[^{}]*\}", "", url) or "}" in re.sub(r"\{[^{}]*\}", "", url):
            expected = f"only {', '.join(f'{{{name}}}' for name in allowed)}" if allowed else "no placeholders"
            section.problem(key, "a placeholder that is not known", expected=expected, found=url)
            return
        host_part = url.split("/", 3)[2] if url.count("/") >= 2 else url
        if "{" in host_part:
            section.problem(key, "a placeholder in the host", expected="placeholders in path or query", found=url)
            return
        problem = url_problem(url, allow_private=allow_private)
        if problem:
            section.problem(key, problem, expected="https://HOST/PATH")

    def _headers(self, section: Section) -> tuple[tuple[str, str], ...]:
        """`headers_env = { Authorization = "VARIABLE" }`: headers whose values are secrets."""
        value = section.take("headers_env")
        if value is None:
            return ()
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
            section.problem("headers_env", "wrong type", expected='{ Authorization = "VARIABLE" }')
            return ()
        headers = []
        for name, variable in value.items():
            text = self._environment.get(variable, "")
            if not _HEADER.fullmatch(name) or name.lower() in ("host", "content-length", "transfer-encoding"):
                section.problem(f"headers_env.{name}", "not a header that can be set")
            elif not text:
                section.problem(f"headers_env.{name}", "the environment has no such variable", found=variable)
            elif not text.isprintable() or not text.isascii():
                section.problem(f"headers_env.{name}", "the variable's value is not one line of ASCII", found=variable)
            headers.append((name, text))
        return tuple(headers)

    def _sql(self, section: Section, timeout_s: float) -> Sql:
        connection = section.text("connection", expected="the name of a [connection.NAME]")
        if connection and connection not in self._connections:
            known = ", ".join(self._connections) or "none"
            section.problem("connection", "not a connection of this file", expected=f"one of: {known}")
        statement = section.text("statement")
        problem = statement_problem(statement)
        if statement and problem:
            section.problem("statement", problem, expected="one SQL statement")
        rows = section.integer("rows", -1, minimum=0) if section.has("rows") else None
        return Sql(url=self._connections.get(connection, ""), statement=statement, rows=rows, timeout_s=timeout_s)

    def _command(self, section: Section, timeout_s: float) -> Command:
        return Command(
            argv=self._argv(section, "argv", required=True),
            status_argv=self._argv(section, "status_argv", required=False),
            folder=self._path(section, "folder") or "/",
            env=self._variables(section),
            timeout_s=timeout_s,
        )

    def _argv(self, section: Section, key: str, *, required: bool) -> tuple[str, ...]:
        value = section.take(key)
        if value is None and not required:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            section.problem(key, "missing" if value is None else "wrong type", expected='["/path/to/program", "…"]')
            return ()
        problem = argv_problem(tuple(value))
        if problem:
            section.problem(key, problem, expected="an absolute path, then fixed arguments; values come on stdin")
        return tuple(value)

    def _python(self, section: Section, timeout_s: float) -> Entry:
        entry = section.text("entry", pattern=ENTRY.pattern, expected="module:function")
        status = section.text("status", "", pattern=f"({ENTRY.pattern})?", expected="module:function")
        folder = self._path(section, "folder") or str(self._folder.resolve())
        module = entry.partition(":")[0]
        if ENTRY.fullmatch(entry) and not (Path(folder) / f"{module}.py").is_file():
            section.problem("entry", "there is no such module", expected=f"{module}.py in the folder")
        return Entry(entry=entry, status=status, folder=folder, env=self._variables(section), timeout_s=timeout_s)

    def _variables(self, section: Section) -> tuple[str, ...]:
        names = section.names("env", (), kind="names of variables")
        for name in names:
            if not re.fullmatch(_VARIABLE, name):
                section.problem("env", "not the name of a variable", found=name)
        return names

    def _path(self, section: Section, key: str) -> str:
        """An existing path, relative to the file."""
        text = section.text(key, "")
        if not text:
            return ""
        path = (self._folder / text).resolve()
        if not path.exists():
            section.problem(key, "there is no such path", found=text)
        return str(path)

    def _secret(self, section: Section, name: str, *, required: bool) -> str:
        """What `NAME_env` or `NAME_file` points to. Neither the value nor a part of it gets into an error."""
        by_env, by_file = f"{name}_env", f"{name}_file"
        variable, file = section.text(by_env, ""), section.text(by_file, "")
        if variable and file:
            section.problem(by_file, f"given beside {by_env}", expected="one of the two")
        if not variable and not file:
            if required:
                section.problem(by_env, "missing", expected=f"{by_env} or {by_file}")
            return ""
        if variable:
            value = self._environment.get(variable, "")
            if not value:
                section.problem(by_env, "the environment has no such variable", found=variable)
            return value
        try:
            raw = (self._folder / file).read_bytes()
            if len(raw) > _MAX_SECRET_BYTES:
                section.problem(by_file, "the file is too long", expected=f"at most {_MAX_SECRET_BYTES} bytes")
                return ""
            value = raw.decode().strip()
        except (OSError, UnicodeDecodeError):
            section.problem(by_file, "the file cannot be read as text", found=file)
            return ""
        if not value:
            section.problem(by_file, "the file is empty", found=file)
        return value


def _seconds(section: Section, key: str, default: float, *, maximum: float = 86400.0) -> float:
    value = section.number(key)
    if value is None:
        return default
    if not 0.0 < value <= maximum:
        section.problem(key, "out of range", expected=f"seconds above 0, at most {maximum:g}", found=f"{value:g}")
        return default
    return value
