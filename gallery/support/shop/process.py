"""The shop as a process of its own, with the operator's `actions.toml` for where it listens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gallery.neighbour import Neighbour
from gallery.support.shop.catalogue import CUSTOMERS, Customer
from gallery.support.shop.database import Books

SUPPORT = Path(__file__).parents[1]
USUAL_ADDRESS = "127.0.0.1:9102"


class ShopProcess(Neighbour):
    """A running shop; its `secret` belongs into SHOP_SECRET."""

    def __init__(self, folder: Path, customers: Iterable[Customer] = CUSTOMERS, *, tell: str = "") -> None:
        """Start it with its database in `folder`; `tell` is the server that hears of what happens to customers."""
        folder.mkdir(parents=True, exist_ok=True)
        self.database = folder / "shop.sqlite"
        Books(self.database, customers=customers).close()
        super().__init__(
            "gallery.support.shop", folder, actions=SUPPORT / "actions.toml", usual_address=USUAL_ADDRESS,
            secret_env="SHOP_SECRET", arguments=["--database", str(self.database), "--tell", tell],
        )  # fmt: skip
