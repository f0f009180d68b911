"""Runs the payment service: `python -m gallery.fraud.payments --port 9103`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import uvicorn

from gallery.fraud.payments.app import payments
from gallery.fraud.payments.ledger import Ledger


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m gallery.fraud.payments", description=__doc__)
    parser.add_argument("--database", type=Path, default=Path("var/payments.sqlite"), help="its own SQLite file")
    parser.add_argument("--port", type=int, default=9103)
    options = parser.parse_args()
    secret = os.environ.get("PAYMENTS_SECRET", "")
    if not secret:
        raise SystemExit("error: PAYMENTS_SECRET is not set: the service checks the signature of every action")
    options.database.parent.mkdir(parents=True, exist_ok=True)
    app = payments(Ledger(options.database), secret)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
