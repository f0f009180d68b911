"""The gallery package `support`: its conversations, with the real policy, store, relay and shop; its help centre."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")
pytest.importorskip("cel_expr_python", reason="policies need the extra `decide`")

from gallery.builds import is_built
from gallery.support.helpcentre import read_pages, read_questions
from gallery.support.scripts import Script, customers_of, read_scripts
from gallery.support.shop.catalogue import CUSTOMERS, PRICES
from gallery.support.shop.process import ShopProcess
from onward.act.targets import load_targets
from onward.dialogue import Dialogue, State
from onward.package.assembly import assemble
from onward.pipeline import Pipeline
from onward.runners.chat import Local
from onward.runners.decisions import replay
from onward.store.sql import open_store

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "var" / "repository"
DATA = ROOT / "gallery" / "support" / "data"
SCRIPTS = read_scripts()

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = REPOSITORY / "support" / "1.0.0"
    if not is_built("support", REPOSITORY):
        if importlib.util.find_spec("sklearn") is None:
            pytest.skip("support is not built, and building it needs the extra `pack`")
        from gallery.support.build import build

        folder = tmp_path_factory.mktemp("support")
        build(folder, progress=lambda step, share: None)
        assemble(folder)
    with Pipeline.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProcess]:
    process = ShopProcess(tmp_path_factory.mktemp("shop"), customers_of(SCRIPTS))
    yield process
    process.close()


class Talks:
    """The package with a store and a relay, and the shop; what the shop tells of customers becomes their profile."""

    def __init__(self, pipeline: Pipeline, shop: ShopProcess, folder: Path) -> None:
        self.url = url = f"sqlite:///{folder}/onward.db"
        self.shop = shop
        self.store = open_store(url)
        targets = load_targets(shop.actions, environment={"SHOP_SECRET": shop.secret})
        # Generous: on a busy machine a slow answer of the shop must not turn "done" into "in a moment".
        self.local = Local(pipeline, self.store, store_url=url, targets=targets, wait_s=20.0)
        self._told: set[int] = set()

    def tell(self) -> None:
        for entry in self.shop.get("/events"):
            if entry["row"] not in self._told:
                self._told.add(entry["row"])
                self.local.profiles.ingest("default", entry["customer"], [entry["event"]]).result()

    def close(self) -> None:
        self.local.close()
        self.store.close()


@pytest.fixture(scope="module")
def talks(pipeline: Pipeline, shop: ShopProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talks]:
    opened = Talks(pipeline, shop, tmp_path_factory.mktemp("onward"))
    opened.tell()
    yield opened
    opened.close()


def state_of(talks: Talks, conversation: str) -> State:
    with talks.store.snapshot() as reader:
        turns = reader.turns("default", conversation, limit=1)
    return talks.local.conversations.dialogue.state_of(turns[-1].content)


def shop_of(shop: ShopProcess, customer: str) -> dict[str, Any]:
    if not customer:
        return {"status": "", "plan": "", "refunds": [], "cases": []}
    row = shop.get(f"/customers/{customer}")
    return {
        "status": row["status"],
        "plan": row["plan"],
        "refunds": [[one["number"], one["cents"] / 100] for one in shop.get("/refunds") if one["customer"] == customer],
        "cases": [[one["queue"], one["priority"]] for one in shop.get("/cases") if one["customer"] == customer],
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_conversation_goes_as_it_should_and_the_shop_is_as_it_should_be(talks: Talks, script: Script) -> None:
    talks.local.customer = script.customer
    before = shop_of(talks.shop, script.customer)
    conversation = ""
    for at, turn in enumerate(script.turns):
        answer = talks.local.say(turn["say"], conversation)
        talks.tell()
        conversation = answer["conversation"]
        state = state_of(talks, conversation)
        where = f"turn {at + 1}, {turn['say']!r} → {answer['reply']!r} ({answer['intent']})"
        wish = state.wish or state.last
        if "outcome" in turn:
            assert answer["decision"]["outcome"] == turn["outcome"], where
        if "actions" in turn:
            assert [f"{one['name']} {one['state']}" for one in answer["actions"]] == turn["actions"], where
        if "awaiting" in turn:
            assert state.awaiting == turn["awaiting"], where
        if "request" in turn:
            assert wish is not None and wish.request == turn["request"], where
        for name, value in turn.get("slots", {}).items():
            assert wish is not None and wish.slots.get(name) == value, f"{where}: {name} of {wish}"
        if "until_days" in turn:
            assert wish is not None
            ahead = datetime.date.fromisoformat(wish.slots["until"]) - datetime.datetime.now(datetime.UTC).date()
            assert ahead.days == turn["until_days"], where
        for piece in turn.get("contains", ()):
            assert piece.lower() in answer["reply"].lower(), where
        if "article" in turn:
            assert answer["article"] is not None and answer["article"]["id"] == turn["article"], where
            page = next(page for page in read_pages() if page.article_id == turn["article"])
            assert any(sentence in answer["reply"] for sentence in page.sentences) and page.title in answer["reply"]
    assert shop_of(talks.shop, script.customer) == {**before, **script.after}


def test_there_are_at_least_40_scripts() -> None:
    assert len(SCRIPTS) >= 40
    assert len({script.name for script in SCRIPTS}) == len(SCRIPTS)


def test_the_articles_say_what_the_shop_charges() -> None:
    sentence = next(page for page in read_pages() if page.article_id == "prices").sentences[0]
    for plan, price in PRICES.items():
        assert f"{plan.title()} is €{price:.0f}" in sentence or f"{plan.title()} €{price:.0f}" in sentence
    assert len(read_pages()) >= 40
    assert {customer.plan for customer in CUSTOMERS} <= PRICES.keys()


def test_the_held_out_questions_are_those_that_were_committed_before_the_articles() -> None:
    digest = hashlib.sha256((DATA / "questions.jsonl").read_bytes()).hexdigest()
    assert digest == (DATA / "questions.sha256").read_text(encoding="utf-8").split()[0]
    questions = read_questions("questions.jsonl")
    assert sum(bool(question.article_id) for question in questions) >= 60
    assert sum(not question.article_id for question in questions) >= 20
    others = {question.text.lower() for question in read_questions("calibration.jsonl")}
    assert not others & {question.text.lower() for question in questions}


def test_every_label_that_means_something_is_one_of_the_models(pipeline: Pipeline) -> None:
    dialogue = Dialogue.open(pipeline.package.folder, pipeline.manifest)
    assert dialogue is not None
    names = set((pipeline.package.folder / "labels.txt").read_text(encoding="utf-8").split())
    assert set(dialogue.definition.intents) == names - {"out_of_scope"}


def test_the_operators_file_has_a_target_for_every_action_of_the_policy(shop: ShopProcess, pipeline: Pipeline) -> None:
    targets = load_targets(shop.actions, environment={"SHOP_SECRET": shop.secret})
    wanted = tomllib.loads((pipeline.package.folder / "policy.toml").read_text(encoding="utf-8"))["action"]
    assert {action["name"] for action in wanted} == set(targets.names)


def test_a_huge_message_is_cut_and_answered(talks: Talks) -> None:
    talks.local.customer = ""
    answer = talks.local.say("cancel " * 200_000, "")
    assert answer["decision"]["outcome"] in ("ask", "unknown", "answer")
    with talks.store.snapshot() as reader:
        (turn, *_) = reader.turns("default", answer["conversation"])
    assert len(msgspec.json.decode(turn.content)["text"]) <= 2000


def test_every_decision_of_the_conversations_can_be_made_again_from_the_log(
    talks: Talks, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    if pipeline.package.folder.parent.parent != REPOSITORY:
        pytest.skip("the package stands in no repository")
    talks.local.customer = "c-gia"
    conversation = talks.local.say("refund my last order", "")["conversation"]
    assert talks.local.say("yes", conversation)["actions"][0]["state"] == "waiting"
    replay(None, talks.url, packages=REPOSITORY, policy=None, key_file=None, as_json=True)
    (report,) = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines() if line]
    assert report["verdicts"].keys() == {"same"} and report["verdicts"]["same"] >= 2


def test_a_chat_in_a_pipe_answers_a_line_with_a_line(pipeline: Pipeline, shop: ShopProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onward", "chat", str(pipeline.package.folder), "--customer", "c-cara"]
    command += ["--store", f"sqlite:///{tmp_path}/onward.db", "--actions", str(shop.actions)]
    told = subprocess.run(
        command, input="I want to make a complaint\n\nthanks\n", capture_output=True, text=True, timeout=60,
        env={**os.environ, "SHOP_SECRET": shop.secret},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    first, second = map(msgspec.json.decode, told.stdout.splitlines())
    assert [action["state"] for action in first["actions"]] == ["done"]
    assert first["actions"][0]["receipt"]["queue"] == "complaints"
    assert second["conversation"] == first["conversation"] and "welcome" in second["reply"]
