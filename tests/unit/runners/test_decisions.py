"""`onward decide` as a person runs it: decisions come out again, and a new policy shows what it would change."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from onward.store.sql import open_store
from tests.postgres import server
from tests.unit.runners.office import POLICY, Office, case, random_cases, write_package

COUNT = 1000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def office(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A thousand random decisions, recorded by the desk."""
    url = server().new_database() if request.param == "postgresql" else ""
    office = Office(tmp_path_factory.mktemp("decisions"), url=url)
    office.decide(random_cases(COUNT))
    return office


def report(made: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(made.stdout)
    return parsed


def test_a_thousand_decisions_come_out_bit_for_bit(office: Office) -> None:
    started = time.perf_counter()
    made = office.onward("decide", "replay")
    assert made.returncode == 0, made.stdout + made.stderr
    assert report(made)["verdicts"] == {"same": COUNT}
    assert time.perf_counter() - started < 20


def test_they_come_out_of_an_export_too_with_the_stores_keys_and_are_sealed_without(
    office: Office, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    assert office.onward("audit", "export", log).returncode == 0
    assert report(office.onward("decide", "replay", log))["verdicts"] == {"same": COUNT}
    made = office.onward("decide", "replay", log, "--store", "sqlite:///nowhere.db")
    assert (made.returncode, report(made)["verdicts"]) == (65, {"sealed": COUNT})
    assert "[REPLAY_DIFFERS]" in made.stderr
    assert not (office.folder / "nowhere.db").exists()


def test_a_new_policy_shows_which_outcomes_would_change(office: Office, tmp_path: Path) -> None:
    changed = POLICY.replace(
        "decline = { positive = 0.0, negative = 8.0 }", "decline = { positive = 0.0, negative = 80.0 }"
    )
    (tmp_path / "policy.toml").write_text(changed.replace('version = "1"\n', 'name = "fraud"\nversion = "2"\n'))
    made = office.onward("decide", "replay", "--policy", tmp_path / "policy.toml")
    assert made.returncode == 65
    found = report(made)
    changes = {(each["recorded"], each["replayed"]): each["count"] for each in found["changes"]}
    assert ("decline", "review") in changes
    assert sum(changes.values()) == found["verdicts"]["different"] < COUNT
    assert found["verdicts"]["same"] + found["verdicts"]["different"] == COUNT


def test_the_same_policy_from_a_file_changes_nothing(office: Office) -> None:
    made = office.onward("decide", "replay", "--policy", office.package / "policy.toml")
    assert (made.returncode, report(made)["verdicts"]) == (0, {"same": COUNT}), made.stderr


def test_a_policy_that_is_not_there_any_more_is_said_to_be_missing(office: Office, tmp_path: Path) -> None:
    write_package(tmp_path / "fraud" / "1.0.0", policy=POLICY.replace("NO_RULE", "NONE"))
    made = office.onward("decide", "replay", "--packages", tmp_path)
    assert (made.returncode, report(made)["verdicts"]) == (65, {"no_policy": COUNT})
    made = office.onward("decide", "replay", "--packages", tmp_path / "empty")
    assert (made.returncode, made.stdout) == (66, "")


def test_a_later_version_with_the_same_policy_will_do(office: Office, tmp_path: Path) -> None:
    write_package(tmp_path / "fraud" / "1.1.0", version="1.1.0")
    made = office.onward("decide", "replay", "--packages", tmp_path)
    assert (made.returncode, report(made)["verdicts"]) == (0, {"same": COUNT}), made.stderr


def test_without_the_installation_key_nothing_is_proven_and_none_is_made(office: Office, tmp_path: Path) -> None:
    folder = tmp_path / "office"
    shutil.copytree(office.folder, folder)
    (folder / "var" / "onward.key").unlink()
    moved = Office.__new__(Office)
    moved.folder, moved.url = folder, office.url.replace(str(office.folder), str(folder))
    made = moved.onward("decide", "replay")
    assert (made.returncode, report(made)["verdicts"]) == (65, {"sealed": COUNT})
    assert not (folder / "var" / "onward.key").exists()
    shutil.copy(office.folder / "var" / "onward.key", folder / "other.key")
    made = moved.onward("decide", "replay", ONWARD_KEY_FILE="other.key")
    assert (made.returncode, report(made)["verdicts"]) == (0, {"same": COUNT})


def test_another_installations_key_opens_nothing_and_shows_no_traceback(office: Office, tmp_path: Path) -> None:
    other = Office(tmp_path)
    other.decide([case(1.0)])
    made = office.onward("decide", "replay", "--key-file", tmp_path / "var" / "onward.key")
    assert (made.returncode, report(made)["verdicts"]) == (65, {"unreadable": COUNT})
    assert "KEY_UNUSABLE" in report(made)["findings"][0]["why"]
    assert "Traceback" not in made.stderr


def test_an_erased_entity_is_erased_its_values_are_gone_and_the_chain_holds(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.decide([case(900.0, card) for card in ("gone-card", "kept-card", "gone-card")])
    log = tmp_path / "before.jsonl"
    assert office.onward("audit", "export", log, "--json").returncode == 0
    store = open_store(office.url)
    with store.transaction() as tx:
        tx.erase_entity("default", "gone-card", time.time())
    store.close()
    for source in ((), (log,)):
        made = office.onward("decide", "replay", *source)
        assert (made.returncode, report(made)["verdicts"]) == (0, {"same": 1, "erased": 2}), made.stderr
    assert office.onward("audit", "verify").returncode == 0
    kept = b"".join(path.read_bytes() for path in (tmp_path / "var").glob("onward.db*"))
    assert b"gone-card" not in kept + log.read_bytes()


def test_a_changed_entry_is_found_by_replay_as_well(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.decide([case(1.0)])
    log = tmp_path / "log.jsonl"
    office.onward("audit", "export", log)
    log.write_text(log.read_text().replace("approve", "decline", 1))
    made = office.onward("decide", "replay", log)
    assert (made.returncode, report(made)["changes"]) == (
        65,
        [{"recorded": "decline", "replayed": "approve", "count": 1}],
    )


def test_a_policy_is_tested_and_shows_its_thresholds(office: Office, tmp_path: Path) -> None:
    for place in (office.package, "fraud", office.package / "policy.toml"):
        made = office.onward("decide", "test", place)
        assert made.returncode == 0, made.stderr
        found = report(made)
        assert (found["name"], found["tests"]) == ("fraud", ["a sure fraud of long ago is held"])
        assert [(each["outcome"], each["from"]) for each in found["thresholds"]] == [
            ("approve", 0.0), ("review", 0.15), ("decline", 0.625),
        ]  # fmt: skip


def test_a_policy_whose_test_fails_is_refused_before_it_is_packed(office: Office, tmp_path: Path) -> None:
    shutil.copy(office.package / "onward.toml", tmp_path)
    (tmp_path / "policy.toml").write_text(POLICY.replace("probability = 0.99", "probability = 0.01"))
    made = office.onward("decide", "test", tmp_path)
    assert (made.returncode, made.stdout) == (65, "")
    assert "a sure fraud of long ago is held" in made.stderr
    (tmp_path / "policy.toml").write_text(POLICY.replace("result.probability", "result.probabilty"))
    made = office.onward("decide", "test", tmp_path / "policy.toml")
    assert made.returncode == 65
    assert "policy.toml:" in made.stderr


def test_a_package_without_a_policy_says_so(tmp_path: Path) -> None:
    office = Office(tmp_path)
    made = office.onward("decide", "test", "nothing")
    assert made.returncode == 66
