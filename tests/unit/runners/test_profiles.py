"""`onward profiles` as a person runs it: events in, everything out, and an erasure that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.runners.office import Office, case, onward

EVENTS = [
    {"entity": entity, "id": f"{entity}-{n}", "kind": "purchase", "at": 1e9 + n, "data": {"amount": n * 1.5}}
    for entity in ("ann-card", "bob-card")
    for n in range(3)
]


def write(path: Path, *more: str) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + "".join(more))
    return path


def test_events_are_taken_in_once_and_given_out_again(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl")
    for accepted, duplicate in ((6, 0), (0, 6)):
        made = onward("profiles", "import", "events.jsonl", cwd=tmp_path)
        assert json.loads(made.stdout) == {"accepted": accepted, "duplicate": duplicate}, made.stderr
    found = json.loads(onward("profiles", "export", "ann-card", cwd=tmp_path).stdout)
    assert [event["data"]["amount"] for event in found["events"]] in ([0.0, 1.5, 3.0], [3.0, 1.5, 0.0])
    assert onward("profiles", "export", "ann-card", "--tenant", "other", cwd=tmp_path).returncode == 66


def test_a_line_that_is_no_event_is_named_and_what_came_before_can_be_sent_again(tmp_path: Path) -> None:
    for number, line in enumerate(("not json\n", "[]\n", '{"entity": "x"}\n', '{"id": "1", "kind": "k", "at": 1}\n')):
        write(tmp_path / "events.jsonl", line)
        made = onward("profiles", "import", "events.jsonl", cwd=tmp_path)
        assert (made.returncode, made.stdout) == (65, ""), (number, made)
        assert "events.jsonl:7" in made.stderr
        assert len(made.stderr.splitlines()) == 1


def test_an_erased_entity_is_gone_from_the_files_and_its_decisions_are_erased(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.decide([case(900.0, "ann-card"), case(1.0, "bob-card")])
    assert office.onward("profiles", "import", write(tmp_path / "events.jsonl")).returncode == 0
    made = office.onward("profiles", "erase", "ann-card", "--by", "eve")
    assert json.loads(made.stdout)["erased"] == {"keys": 1, "events": 3, "conversations": 0, "recordings": 0}
    assert office.onward("profiles", "export", "ann-card").returncode == 66
    assert b"ann-card" not in b"".join(path.read_bytes() for path in (tmp_path / "var").glob("onward.db*"))
    verdicts = json.loads(office.onward("decide", "replay").stdout)["verdicts"]
    assert verdicts == {"same": 1, "erased": 1}
    assert office.onward("audit", "verify").returncode == 0
    last = json.loads(office.onward("audit", "tail", "-n", "1").stdout)
    assert (last["kind"], last["body"]["by"]) == ("profile.erased", "eve")


HOLDS = """format = 1
[[target]]
action = "hold"
packages = ["fraud"]
kind = "webhook"
url = "http://127.0.0.1:9/holds"
allow_private = true
"""


def test_an_export_has_the_decisions_and_actions_too_opened_where_the_key_is_at_hand(tmp_path: Path) -> None:
    office = Office(tmp_path, HOLDS)
    office.decide([case(900.0, "ann-card"), case(1.0, "bob-card")])
    made = office.onward("profiles", "export", "ann-card").stdout
    (decision,) = json.loads(made)["decisions"]
    assert decision["facts"]["input"] == {"Amount": 900.0, "card": "ann-card"}
    (action,) = decision["actions"]
    assert (action["name"], action["state"]) == ("hold", "waiting")
    assert action["payload"]["arguments"] == {"card": "ann-card", "amount": 900.0}
    assert "bob-card" not in made
    (tmp_path / "var" / "onward.key").rename(tmp_path / "elsewhere.key")
    (hidden,) = json.loads(office.onward("profiles", "export", "ann-card").stdout)["decisions"]
    assert (hidden["outcome"], hidden["erased"], hidden["actions"][0]["payload"]) == ("decline", False, None)
    with_key = office.onward("profiles", "export", "ann-card", "--key-file", tmp_path / "elsewhere.key").stdout
    assert json.loads(with_key)["decisions"] == [decision]
