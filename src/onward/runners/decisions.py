"""Decisions for a person: those of the log decided again, and a policy put to its own tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from onward.decide.conversation import dialogue_facts
from onward.decide.document import POLICY_FILE
from onward.decide.policies import Candidate, PolicyShelf, read_policy_text, tests_in
from onward.decide.proof import entries_of, entries_of_file
from onward.decide.replay import Finding, FindPolicy, Replay, ReplayDiffers, Verdict
from onward.decide.replay import replay as replay_entries
from onward.decide.rules import Rules, load_policy, parse_policy
from onward.errors import NotFound
from onward.package.manifest import MANIFEST_FILE, load_manifest
from onward.package.package import open_package
from onward.package.repository import Repository
from onward.runners.installation import exists, find_keys, open_store
from onward.runners.local import find
from onward.runners.tables import is_for_reading, print_json, print_line, print_table

_SHOWN_FINDINGS = 20


def replay(
    log: Path | None, store_url: str, *, packages: Path, policy: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Decide every logged decision again; raises `ReplayDiffers` once it has said which do not come out the same.

    `log` is an exported file; without it, the store's log is taken. The store, where there is one, opens what is
    sealed. With `policy`, that one decides instead of those of the log.
    """
    repository = Repository(packages) if packages.exists() else None
    find_policy, only = _policies(repository, packages, policy)
    with ExitStack() as stack:
        keys = reader = None
        if log is None or exists(store_url):
            store = stack.enter_context(open_store(store_url))
            keys = find_keys(store_url, key_file)
            reader = stack.enter_context(store.snapshot())
        entries = entries_of_file(log) if log is not None else entries_of(reader) if reader is not None else ()
        report = replay_entries(entries, find_policy, keys=keys, reader=reader, only=only)
    _show(report, as_json)
    if not report.proven:
        wrong = [f"{count} {verdict.value}" for verdict, count in sorted(report.verdicts.items(), key=_by_word)]
        raise ReplayDiffers("not every decision came out the same", found=", ".join(wrong))


def _policies(repository: Repository | None, packages: Path, policy: Path | None) -> tuple[FindPolicy, str]:
    """Who decides again, and the name of the policy whose decisions are looked at ("": all)."""
    if policy is not None:
        candidate = Candidate(policy, repository)
        return candidate, candidate.name
    if repository is None:
        raise NotFound("no packages to take the policies from", where=str(packages), expected="--packages REPOSITORY")
    return PolicyShelf(repository), ""


def _by_word(pair: tuple[Verdict, int]) -> str:
    return pair[0].value


def _show(report: Replay, as_json: bool) -> None:
    verdicts = {verdict.value: report.verdicts[verdict] for verdict in Verdict if report.verdicts[verdict]}
    changes = [(before, now, count) for (before, now), count in report.changes.most_common()]
    if is_for_reading(as_json):
        counted = ", ".join(f"{count} {word}" for word, count in verdicts.items()) or "none"
        print_line(f"{report.decisions} decisions: {counted}", style="green" if report.proven else "yellow")
        if changes:
            print_table("changes", ("recorded", "now", "how often"), changes)
        _print_findings([one for one in report.findings if one.verdict is not Verdict.ERASED][:_SHOWN_FINDINGS])
        return
    print_json(
        {
            "proven": report.proven,
            "decisions": report.decisions,
            "verdicts": verdicts,
            "changes": [{"recorded": before, "replayed": now, "count": count} for before, now, count in changes],
            "findings": [
                {"sequence": one.sequence, "decision_id": one.decision_id, "verdict": one.verdict.value,
                 "recorded": one.recorded, "replayed": one.replayed, "why": one.why}
                for one in report.findings
            ],
        }
    )  # fmt: skip


def _print_findings(findings: Sequence[Finding]) -> None:
    if findings:
        rows = [
            (one.sequence, one.decision_id, one.verdict.value, _told(one.recorded), _told(one.replayed) or one.why)
            for one in findings
        ]
        print_table("findings", ("entry", "decision", "", "recorded", "now"), rows)


def _told(decision: Mapping[str, Any] | None) -> str:
    if decision is None:
        return ""
    return f"{decision['outcome']} by {decision['rule']} ({', '.join(decision['reasons'])})"


def test(policy: str, *, as_json: bool) -> None:
    """Load a policy, which runs its tests, and say what it does. Raises `PolicyTestFailed` and `PolicyError`."""
    rules, names = _policy_at(policy)
    report = rules.describe() | {"tests": names}
    if is_for_reading(as_json):
        print_line(f"{report['name']} {report['version']}: {len(names)} tests passed", style="green")
        print_line(f"digest {report['digest']}", style="dim")
        _print_policy(report)
    else:
        print_json(report)


def _print_policy(report: Mapping[str, Any]) -> None:
    rows = [(rule["name"], rule["when"], rule["outcome"], ", ".join(rule["reasons"]), ", ".join(rule["actions"]))
            for rule in report["rules"]]  # fmt: skip
    for word in ("default", "fallback"):
        rows.append((word, "", report[word]["outcome"], ", ".join(report[word]["reasons"]), ""))
    print_table("rules", ("name", "when", "outcome", "reasons", "actions"), rows)
    if report["thresholds"]:
        cheapest = [(f"{one['from']:.6g}", one["outcome"]) for one in report["thresholds"]]
        print_table("the cheapest outcome", ("from probability", "outcome"), cheapest)
    if report["caps"]:
        caps = [(cap["outcome"], cap["at_most"], f"{cap['per_s']:g} s", cap["otherwise"]) for cap in report["caps"]]
        print_table("caps", ("outcome", "at most", "in", "otherwise"), caps)
    if report["actions"]:
        actions = [(each["name"], ", ".join(f"{name}: {kind}" for name, kind in each["arguments"].items()),
                    each["approval"] or "never") for each in report["actions"]]  # fmt: skip
        print_table("actions", ("name", "arguments", "a person must approve when"), actions)


def _policy_at(place: str) -> tuple[Rules, list[str]]:
    """The policy of a file beside its manifest, of a folder that is not packed yet, or of a package."""
    path = Path(place)
    folder = path.parent if path.is_file() and path.suffix == ".toml" else path
    if (folder / MANIFEST_FILE).is_file() and not (folder / "onward.lock").is_file():
        file = path if path.is_file() else folder / POLICY_FILE
        text = read_policy_text(file)
        return parse_policy(text, load_manifest(folder), more=dialogue_facts(folder)), tests_in(text)
    if path.is_file() and path.suffix == ".toml" and folder != path and not (folder / MANIFEST_FILE).is_file():
        raise NotFound("a policy is read against its package", where=place, expected=f"{MANIFEST_FILE} beside it")
    package = open_package(find(place if folder == path else str(folder)))
    rules = load_policy(package.folder, package.manifest)
    if rules is None:
        raise NotFound("this package has no policy", where=place, expected=POLICY_FILE)
    return rules, tests_in(read_policy_text(package.folder / POLICY_FILE))
