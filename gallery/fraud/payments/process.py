"""The payment service as a process of its own, with the operator's `actions.toml` for where it listens."""

from __future__ import annotations

from pathlib import Path

from gallery.neighbour import Neighbour

FRAUD = Path(__file__).parents[1]
USUAL_ADDRESS = "127.0.0.1:9103"


class PaymentsProcess(Neighbour):
    """A running payment service; its `secret` belongs into PAYMENTS_SECRET."""

    def __init__(self, folder: Path) -> None:
        """Start it with its database in `folder`."""
        super().__init__(
            "gallery.fraud.payments", folder, actions=FRAUD / "actions.toml", usual_address=USUAL_ADDRESS,
            secret_env="PAYMENTS_SECRET", arguments=["--database", str(folder / "payments.sqlite")],
        )  # fmt: skip
