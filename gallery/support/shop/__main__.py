"""Runs the shop: `python -m gallery.support.shop --port 9102`; or lists its events for `onward profiles import`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import uvicorn

from gallery.support.shop.app import shop
from gallery.support.shop.database import Books


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m gallery.support.shop", description=__doc__)
    parser.add_argument("--database", type=Path, default=Path("var/shop.sqlite"), help="the shop's own SQLite file")
    parser.add_argument("--port", type=int, default=9102)
    parser.add_argument("--tell", default="", help="URL of an Onward server to be told what happens to customers")
    parser.add_argument("--events", action="store_true", help="print the events as JSON lines, and end")
    options = parser.parse_args()
    options.database.parent.mkdir(parents=True, exist_ok=True)
    books = Books(options.database)
    if options.events:
        for entry in books.events(limit=100_000):
            print(json.dumps({"entity": entry["customer"], **entry["event"]}))
        return
    secret = os.environ.get("SHOP_SECRET", "")
    if not secret:
        raise SystemExit("error: SHOP_SECRET is not set: the shop checks the signature of every action")
    uvicorn.run(shop(books, secret, tell_url=options.tell), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
