"""The shop's books: customers, subscriptions, orders, refunds, cases and mails, in a SQLite file of its own.

Every effect is made once for its idempotency key: a repeated one gives what was answered the first time. Knows nothing
of HTTP, and nothing of Onward.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from gallery.support.shop.catalogue import CUSTOMERS, MOST_PAUSED_DAYS, PRICES, Customer, sending_day

_TABLES = """
CREATE TABLE IF NOT EXISTS customers (customer TEXT PRIMARY KEY, name TEXT, email TEXT, language TEXT, address TEXT,
  pending_email TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS subscriptions (customer TEXT PRIMARY KEY, plan TEXT, next_plan TEXT, status TEXT,
  next_box TEXT, until TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS orders (number TEXT, customer TEXT, total_cents INTEGER, status TEXT, at_s REAL,
  PRIMARY KEY (number, customer));
CREATE TABLE IF NOT EXISTS refunds (refund INTEGER PRIMARY KEY AUTOINCREMENT, number TEXT, customer TEXT,
  cents INTEGER, at_s REAL);
CREATE TABLE IF NOT EXISTS cases (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, priority TEXT, customer TEXT,
  number TEXT, summary TEXT, at_s REAL, status TEXT NOT NULL DEFAULT 'open');
CREATE TABLE IF NOT EXISTS mails (id INTEGER PRIMARY KEY AUTOINCREMENT, recipient TEXT, subject TEXT, at_s REAL);
CREATE TABLE IF NOT EXISTS effects (idempotency_key TEXT PRIMARY KEY, name TEXT, arguments TEXT, receipt TEXT,
  at_s REAL);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, customer TEXT, kind TEXT, at_s REAL, data TEXT,
  told INTEGER NOT NULL DEFAULT 0);
"""


class Refused(Exception):
    """The shop does not do this; the text says why."""


class Books:
    """The database of one shop. Safe to use from several threads: they take turns."""

    def __init__(
        self, file: Path, *, customers: Iterable[Customer] = CUSTOMERS, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the file; an empty one begins with `customers`."""
        self._clock = clock
        self._turn = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + _TABLES)
        with self._transaction():
            if not self._db.execute("SELECT 1 FROM customers").fetchone():
                for customer in customers:
                    self._seed(customer)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def today(self) -> date:
        """The day, in UTC."""
        return datetime.fromtimestamp(self._clock(), UTC).date()

    # ---- effects -------------------------------------------------------------------------------------------------

    def effect(self, key: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked, once for this key; returns the receipt. Raises `Refused`, and then nothing was done."""
        wanted = json.dumps(arguments, sort_keys=True)
        with self._transaction():
            before = self._db.execute("SELECT * FROM effects WHERE idempotency_key = ?", (key,)).fetchone()
            if before is not None:
                if (before["name"], before["arguments"]) != (name, wanted):
                    raise Refused("this idempotency key was used for something else")
                return dict(json.loads(before["receipt"]))
            make = _EFFECTS.get(name)
            if make is None:
                raise Refused(f"there is no action {name!r}")
            receipt = make(self, arguments)
            row = (key, name, wanted, json.dumps(receipt), self._clock())
            self._db.execute("INSERT INTO effects VALUES (?, ?, ?, ?, ?)", row)
            return receipt

    def receipt(self, key: str) -> dict[str, Any] | None:
        """What was answered to an effect, None where it never happened."""
        rows = self.rows("SELECT receipt FROM effects WHERE idempotency_key = ?", key)
        return dict(json.loads(rows[0]["receipt"])) if rows else None

    def _cancel(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        subscription = self._subscription(arguments)
        if subscription["status"] == "cancelled":
            raise Refused("the subscription is cancelled already")
        self._set(subscription["customer"], status="cancelled", until="")
        self._mail(subscription["customer"], "Your subscription has ended")
        return {"ends_on": self.today().isoformat()}

    def _pause(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        subscription = self._subscription(arguments)
        until = date.fromisoformat(str(arguments["until"]))
        if subscription["status"] != "active":
            raise Refused("only a running subscription can be paused")
        if not 0 < (until - self.today()).days <= MOST_PAUSED_DAYS:
            raise Refused(f"a pause is from 1 to {MOST_PAUSED_DAYS} days")
        box = sending_day(until).isoformat()
        self._set(subscription["customer"], status="paused", until=until.isoformat(), next_box=box)
        return {"until": until.isoformat(), "next_box": box}

    def _resume(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        subscription = self._subscription(arguments)
        box = sending_day(self.today() + timedelta(days=3)).isoformat()
        self._set(subscription["customer"], status="active", until="", next_box=box)
        return {"next_box": box}

    def _change_plan(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        subscription, plan = self._subscription(arguments), str(arguments["plan"])
        if plan not in PRICES:
            raise Refused("there is no such plan")
        if subscription["status"] == "cancelled":
            raise Refused("the subscription is cancelled")
        self._set(subscription["customer"], plan=plan)
        return {"plan": plan, "price": PRICES[plan], "from": subscription["next_box"]}

    def _skip(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        subscription = self._subscription(arguments)
        if subscription["status"] != "active":
            raise Refused("only a running subscription has boxes to skip")
        skipped = subscription["next_box"]
        box = sending_day(date.fromisoformat(skipped) + timedelta(days=27)).isoformat()
        self._set(subscription["customer"], next_box=box)
        return {"skipped": skipped, "next_box": box}

    def _refund(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        order = self._order(arguments)
        cents = round(float(arguments["amount"]) * 100)
        query, place = (
            "SELECT SUM(cents) FROM refunds WHERE number = ? AND customer = ?",
            (order["number"], order["customer"]),
        )
        paid = self._db.execute(query, place).fetchone()[0] or 0
        if cents <= 0 or paid + cents > order["total_cents"]:
            raise Refused(f"of this order {(order['total_cents'] - paid) / 100:.2f} euros can be refunded")
        return {"refund": self._pay_back(order, cents), "order": order["number"], "amount": cents / 100}

    def _pay_back(self, order: sqlite3.Row, cents: int) -> str:
        row = (order["number"], order["customer"], cents, self._clock())
        made = self._db.execute("INSERT INTO refunds (number, customer, cents, at_s) VALUES (?, ?, ?, ?)", row)
        self._mail(order["customer"], f"Refund for order {order['number']}")
        return f"R-{made.lastrowid:05d}"

    def _cancel_order(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        order = self._order(arguments)
        if order["status"] != "packed":
            raise Refused(f"the order is {order['status']} already")
        place = (order["number"], order["customer"])
        self._db.execute("UPDATE orders SET status = 'cancelled' WHERE number = ? AND customer = ?", place)
        refund = self._pay_back(order, order["total_cents"])
        return {"order": order["number"], "refunded": order["total_cents"] / 100, "refund": refund}

    def _change_address(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        customer = self._customer(arguments)
        self._db.execute(
            "UPDATE customers SET address = ? WHERE customer = ?", (str(arguments["address"]), customer["customer"])
        )
        return {"address": "changed"}

    def _change_email(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        customer, email = self._customer(arguments), str(arguments["email"])
        row = (email, customer["customer"])
        self._db.execute("UPDATE customers SET pending_email = ? WHERE customer = ?", row)
        self._write_mail(email, "Please confirm your new address")
        return {"email": "to be confirmed"}

    def _send_invoice(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        order = self._order(arguments)
        address = self._mail(order["customer"], f"Invoice of order {order['number']}")
        return {"order": order["number"], "sent_to": address}

    def _open_case(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        customer = str(arguments.get("customer", ""))
        row = (str(arguments["queue"]), str(arguments["priority"]), customer, str(arguments.get("order", "")),
               str(arguments.get("summary", "")), self._clock())  # fmt: skip
        made = self._db.execute(
            "INSERT INTO cases (queue, priority, customer, number, summary, at_s) VALUES (?, ?, ?, ?, ?, ?)", row
        )
        if customer:
            self._note(customer, "contact", {"queue": arguments["queue"]})
        return {"case": f"C-{made.lastrowid:05d}", "queue": arguments["queue"]}

    # ---- pieces of effects -----------------------------------------------------------------------------------------

    def _customer(self, arguments: Mapping[str, Any]) -> sqlite3.Row:
        query = "SELECT * FROM customers WHERE customer = ?"
        found: sqlite3.Row | None = self._db.execute(query, (str(arguments["customer"]),)).fetchone()
        if found is None:
            raise Refused("there is no such customer")
        return found

    def _subscription(self, arguments: Mapping[str, Any]) -> sqlite3.Row:
        query = "SELECT * FROM subscriptions WHERE customer = ?"
        found: sqlite3.Row | None = self._db.execute(query, (str(arguments["customer"]),)).fetchone()
        if found is None:
            raise Refused("the customer has no subscription")
        return found

    def _order(self, arguments: Mapping[str, Any]) -> sqlite3.Row:
        query = "SELECT * FROM orders WHERE number = ? AND customer = ?"
        wanted = (str(arguments["order"]), str(arguments["customer"]))
        found: sqlite3.Row | None = self._db.execute(query, wanted).fetchone()
        if found is None:
            raise Refused("the customer has no such order")
        return found

    def _set(self, customer: str, **values: str) -> None:
        for column, value in values.items():  # the names are this module's own
            self._db.execute(f"UPDATE subscriptions SET {column} = ? WHERE customer = ?", (value, customer))
        row = self._db.execute("SELECT * FROM subscriptions WHERE customer = ?", (customer,)).fetchone()
        self._note(customer, "subscription", {name: row[name] for name in ("plan", "status", "next_box")})

    def _mail(self, customer: str, subject: str) -> str:
        row = self._db.execute("SELECT email FROM customers WHERE customer = ?", (customer,)).fetchone()
        return self._write_mail(str(row["email"]), subject)

    def _write_mail(self, recipient: str, subject: str) -> str:
        row = (recipient, subject, self._clock())
        self._db.execute("INSERT INTO mails (recipient, subject, at_s) VALUES (?, ?, ?)", row)
        return recipient

    def _note(self, customer: str, kind: str, data: Mapping[str, Any], at_s: float | None = None) -> None:
        row = (customer, kind, self._clock() if at_s is None else at_s, json.dumps(data))
        self._db.execute("INSERT INTO events (customer, kind, at_s, data) VALUES (?, ?, ?, ?)", row)

    def _seed(self, customer: Customer) -> None:
        now_s, day_s, name = self._clock(), 86_400.0, customer.customer
        row = (name, customer.name, customer.email, customer.language, "1 Quay Street, Cork", "")
        self._db.execute("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)", row)
        self._note(name, "customer", {"name": customer.name, "language": customer.language}, now_s - 400 * day_s)
        for number, total, status, days in sorted(customer.orders, key=lambda order: -order[3]):
            order = (number, name, round(total * 100), status, now_s - days * day_s)
            self._db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", order)
            self._note(name, "order", {"order": number, "total": total, "status": status}, now_s - days * day_s)
        for days in customer.contacts_days_ago:
            self._note(name, "contact", {"queue": "human"}, now_s - days * day_s)
        box = sending_day(self.today() + timedelta(days=9)).isoformat()
        subscription = (name, customer.plan, customer.plan, customer.status, box, "")
        self._db.execute("INSERT INTO subscriptions VALUES (?, ?, ?, ?, ?, ?)", subscription)
        data = {"plan": customer.plan, "status": customer.status, "next_box": box}
        self._note(name, "subscription", data, now_s - 30 * day_s)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """The rows of a query of this package."""
        with self._turn:
            return [dict(row) for row in self._db.execute(query, values).fetchall()]

    def events(self, *, untold: bool = False, limit: int = 500) -> list[dict[str, Any]]:
        """What has happened to customers, as profile events with their customer; `untold`: what nobody was told yet."""
        query = "SELECT * FROM events WHERE told = 0 OR ? ORDER BY id LIMIT ?"
        return [
            {
                "row": row["id"], "customer": row["customer"],
                "event": {"id": f"shop-{row['id']}-{row['at_s']:.3f}", "kind": row["kind"], "at": row["at_s"],
                          "data": json.loads(row["data"])},
            }
            for row in self.rows(query, 0 if untold else 1, limit)
        ]  # fmt: skip

    def mark_told(self, numbers: list[int]) -> None:
        """These events have been told."""
        with self._transaction():
            self._db.executemany("UPDATE events SET told = 1 WHERE id = ?", [(number,) for number in numbers])


_EFFECTS: Mapping[str, Callable[[Books, Mapping[str, Any]], dict[str, Any]]] = {
    "cancel_subscription": Books._cancel, "pause_subscription": Books._pause, "resume_subscription": Books._resume,
    "change_plan": Books._change_plan, "skip_box": Books._skip, "refund": Books._refund,
    "cancel_order": Books._cancel_order, "change_address": Books._change_address, "change_email": Books._change_email,
    "send_invoice": Books._send_invoice, "open_case": Books._open_case,
}  # fmt: skip
