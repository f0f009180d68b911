"""The scripted conversations, read from `conversations/*.toml`, and the customers that they happen to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gallery.support.shop.catalogue import CUSTOMERS, Customer
from gallery.support.shop.process import ShopProcess as ShopProcess

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Script:
    """One conversation: `customer` is the one it happens to, a copy of `model` of the shop's own."""

    name: str
    model: str
    customer: str
    turns: Sequence[Mapping[str, Any]]
    after: Mapping[str, Any]


def read_scripts() -> list[Script]:
    """All conversations, each with a customer of its own, so that none changes what another finds."""
    rows = [
        row
        for file in sorted((HERE / "conversations").glob("*.toml"))
        for row in tomllib.loads(file.read_text(encoding="utf-8"))["conversation"]
    ]
    return [
        Script(
            name=row["name"],
            model=row["customer"],
            customer=f"{row['customer']}-{at}" if row["customer"] else "",
            turns=row["turns"],
            after=row.get("after", {}),
        )
        for at, row in enumerate(rows)
    ]


def customers_of(scripts: Sequence[Script]) -> list[Customer]:
    """The shop's customers, and a copy of one for each script."""
    models = {customer.customer: customer for customer in CUSTOMERS}
    copies = [replace(models[script.model], customer=script.customer) for script in scripts if script.customer]
    return [*CUSTOMERS, *copies]
