"""`dialogue.toml` is checked: what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.dialogue import Dialogue
from onward.errors import ManifestError
from tests.unit.dialogue.talking import SUPPORT, support, write_folder

TEXT = (SUPPORT / "dialogue.toml").read_text(encoding="utf-8")


def test_a_folder_without_one_has_no_dialogue(tmp_path: Path) -> None:
    assert Dialogue.open(tmp_path) is None


def test_every_request_slot_and_intent_of_the_file_is_there() -> None:
    definition = support().definition
    assert len(definition.requests) == TEXT.count("[[request]]")
    assert len(definition.slots) == TEXT.count("[[slot]]")
    assert len(definition.intents) == TEXT.count("[[intent]]")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format"),
        ('slots = ["order"]\noptional', 'slots = ["ordre"]\noptional', 'found "ordre"; did you mean "order"'),
        ('request = "cancel"', 'request = "cancle"', 'did you mean "cancel"'),
        ("{amount|money}", "{amount|cash}", "no such format"),
        ("{profile.next_box|date}", "{profile.nextbox|date}", 'did you mean "next_box"'),
        ("{receipt.case}", "{reciept.case}", "nothing is called this"),
        ('among = "orders"', 'among = "order"', "no such feature"),
        ('amount = "number"', 'amount = "string"', 'amount = "number"'),
        ('type = "email"', 'type = "mail"', "not allowed here"),
        ("least_known = 0.5", "least_known = 5", "out of range"),
        ('key = "act.done"', 'key = "act.gone"', 'no words for "act.done"'),
        ('article = "cancel"\n', 'article = "cancelling"\n', "there is none of this name"),
        ("pattern = '(?:\\bhr", "pattern = '(?:(\\bhr", "not a regular expression"),
        ("misunderstandings = 2", "misunderstandings = 2\nmore = 1", "unknown key"),
        ('means = "yes"', 'means = "yes"\nanswer = true', "not one meaning"),
        ('articles = "articles.jsonl"', 'articles = "none.jsonl"', "no such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(ManifestError) as caught:
        Dialogue.open(write_folder(tmp_path, TEXT.replace(old, new)))
    assert said in str(caught.value)
    assert "dialogue.toml" in str(caught.value)


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    text = TEXT.replace('request = "cancel"', 'request = "cancle"', 1)
    line = text[: text.index('request = "cancle"')].count("\n") + 1
    with pytest.raises(ManifestError, match=rf"dialogue\.toml:{line}: intent\[0\]\.request"):
        Dialogue.open(write_folder(tmp_path, text))


def test_an_article_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    with (folder / "articles.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "x"}\n')
    with pytest.raises(ManifestError, match=r"articles\.jsonl:55"):
        Dialogue.open(folder)
