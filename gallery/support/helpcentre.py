"""The help centre and what customers ask about it, read from the files that were written by hand."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NONE = "none"
#: Intents whose utterances are about one article: 26 articles learn from them, too.
ARTICLE_OF_INTENT = {
    "cancel_subscription": "cancel", "pause_subscription": "pause", "resume_subscription": "restart",
    "upgrade_plan": "change-plan", "downgrade_plan": "change-plan", "skip_next_delivery": "skip",
    "change_delivery_address": "change-address", "change_delivery_date": "change-date", "track_order": "tracking",
    "cancel_order": "cancel-order", "return_item": "returns", "refund_status": "refund-times",
    "report_damaged_item": "damaged", "report_missing_item": "lost-parcel", "report_wrong_item": "wrong-item",
    "update_payment_method": "update-payment", "dispute_charge": "double-charge", "get_invoice": "invoices",
    "redeem_discount_code": "discount-codes", "ask_plan_price": "prices", "ask_shipping_cost": "delivery-costs",
    "change_email_address": "change-email", "reset_password": "password", "delete_account": "delete-account",
    "gift_subscription": "gift-subscription", "refer_a_friend": "refer-a-friend",
    "complain_about_service": "complaints", "talk_to_human": "contact", "out_of_scope": NONE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Page:
    """An article as it was written."""

    article_id: str
    title: str
    sentences: tuple[str, ...]
    asks: tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class Key:
    """A text that leads to a sentence of an article: a title, the sentence itself, or what people ask."""

    text: str
    article_id: str
    sentence: int

    @property
    def passage(self) -> str:
        """The sentence's name in `passages.txt`."""
        return f"{self.article_id}#{self.sentence}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with the article that answers it; "" where none does."""

    text: str
    article_id: str


def read_pages() -> list[Page]:
    """The articles, in their order."""
    rows = tomllib.loads((HERE / "articles.toml").read_text(encoding="utf-8"))["article"]
    pages = []
    for row in rows:
        asks = [ask.partition(" ") for ask in row["asks"]]
        pages.append(
            Page(
                article_id=row["id"],
                title=row["title"],
                sentences=tuple(row["text"]),
                asks=tuple((int(number), text) for number, _, text in asks),
            )
        )
    return pages


def read_asked() -> tuple[list[Key], list[str]]:
    """Further questions with their sentences, and those that nothing answers."""
    keys, nothing = [], []
    for line in (HERE / "data" / "asked.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        where, _, texts = line.partition(":")
        article, _, number = where.strip().partition(" ")
        for text in map(str.strip, texts.split("|")):
            if article == NONE:
                nothing.append(text)
            else:
                keys.append(Key(text=text, article_id=article, sentence=int(number)))
    return keys, nothing


def read_questions(name: str) -> list[Question]:
    """`calibration.jsonl` or the held-out `questions.jsonl`."""
    lines = (HERE / "data" / name).read_text(encoding="utf-8").splitlines()
    return [Question(text=row["text"], article_id=row["article"]) for row in map(json.loads, lines)]


def keys_of(pages: list[Page]) -> list[Key]:
    """All texts of the matrix: titles, sentences, and what people ask, article after article."""
    keys = []
    for page in pages:
        keys.append(Key(text=page.title, article_id=page.article_id, sentence=0))
        for number, sentence in enumerate(page.sentences):
            keys.append(Key(text=sentence, article_id=page.article_id, sentence=number))
            keys.append(Key(text=f"{page.title}: {sentence}", article_id=page.article_id, sentence=number))
        keys += [Key(text=text, article_id=page.article_id, sentence=number) for number, text in page.asks]
    return keys + read_asked()[0]


def articles_jsonl(pages: list[Page]) -> str:
    """The articles as the package carries them."""
    rows = [
        {
            "id": page.article_id,
            "title": page.title,
            "url": f"https://help.harbourroast.example/{page.article_id}",
            "sentences": list(page.sentences),
        }
        for page in pages
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
