"""What Harbour Roast sells, and the customers that its database begins with. All made up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

#: Euros a month.
PRICES = {"starter": 12.0, "classic": 22.0, "premium": 39.0, "office": 79.0}
MOST_PAUSED_DAYS = 93
SENDING_DAYS = (1, 3)  # Tuesday and Thursday


@dataclass(frozen=True, kw_only=True)
class Customer:
    """A customer as the shop begins with them. `orders`: number, total in euros, status, days ago."""

    customer: str
    name: str
    email: str
    language: str
    plan: str
    status: str
    orders: tuple[tuple[str, float, str, int], ...]
    contacts_days_ago: tuple[int, ...] = ()


CUSTOMERS = (
    Customer(
        customer="c-anna", name="Anna", email="anna@mail.example", language="en", plan="premium", status="active",
        orders=(("HR-10432", 39.0, "delivered", 35), ("HR-10455", 39.0, "sent", 5)),
    ),
    Customer(
        customer="c-ben", name="Ben", email="ben@mail.example", language="en", plan="classic", status="active",
        orders=(("HR-20117", 22.0, "delivered", 32), ("HR-20148", 22.0, "packed", 1)), contacts_days_ago=(12,),
    ),
    Customer(
        customer="c-cara", name="Cara", email="cara@mail.example", language="en", plan="starter", status="active",
        orders=(("HR-30201", 15.5, "delivered", 9),),
    ),
    Customer(
        customer="c-dieter", name="Dieter", email="dieter@mail.example", language="de", plan="classic",
        status="active", orders=(("HR-40077", 29.5, "delivered", 40), ("HR-40091", 29.5, "delivered", 10)),
    ),
    Customer(
        customer="c-emma", name="Emma", email="emma@mail.example", language="en", plan="office", status="active",
        orders=(("HR-50310", 79.0, "delivered", 31), ("HR-50322", 79.0, "sent", 2)), contacts_days_ago=(2, 6, 11),
    ),
    Customer(
        customer="c-finn", name="Finn", email="finn@mail.example", language="en", plan="classic", status="cancelled",
        orders=(("HR-60001", 22.0, "delivered", 90),),
    ),
    Customer(
        customer="c-gia", name="Gia", email="gia@mail.example", language="en", plan="premium", status="paused",
        orders=(("HR-70012", 39.0, "delivered", 70), ("HR-70031", 39.0, "delivered", 45)),
    ),
)  # fmt: skip


def sending_day(after: date) -> date:
    """The first day after this one on which boxes leave."""
    day = after + timedelta(days=1)
    while day.weekday() not in SENDING_DAYS:
        day += timedelta(days=1)
    return day
