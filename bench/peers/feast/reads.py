"""Feast's online store on SQLite, driven line by line: `{"do": ...}` on standard input, the figures on standard output.

Runs in Feast's own environment. What is pushed are finished feature values: Feast's online store keeps no events.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.types import Array, Float64, Int64, String

FEATURES = {
    "count_1m": Int64, "count_1h": Int64, "count_1d": Int64, "spent_1m": Float64, "spent_1h": Float64,
    "spent_1d": Float64, "since_last": Float64, "merchants": Int64, "latest": Array(String),
}  # fmt: skip
REFERENCES = [f"card:{name}" for name in FEATURES]


def main() -> None:
    """Set up in the folder given, then answer requests until the input ends."""
    store = opened(Path(sys.argv[1]), cards=int(sys.argv[2]))
    answer({"ready": True})
    for line in sys.stdin:
        wish = json.loads(line)
        if wish["do"] == "read":
            answer({"taken_s": read(store, wish["entities"])})
        else:
            answer({"rows": wish["rows"], "taken_s": write(store, wish["rows"], wish["batch"])})


def opened(folder: Path, *, cards: int) -> FeatureStore:
    """A feature store with one view of nine features, and a row for each card."""
    config = RepoConfig(
        project="bench", provider="local", registry=str(folder / "registry.db"), entity_key_serialization_version=3,
        online_store={"type": "sqlite", "path": str(folder / "online.db")}, offline_store={"type": "file"},
    )  # fmt: skip
    store = FeatureStore(config=config)
    # A push source wants an offline source beside it; nothing is ever read from there.
    past = FileSource(name="past", path=str(folder / "past.parquet"), timestamp_field="event_timestamp")
    entity = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)
    view = FeatureView(
        name="card", entities=[entity], ttl=timedelta(days=90), online=True,
        source=PushSource(name="pushed", batch_source=past),
        schema=[Field(name="card", dtype=String), *(Field(name=name, dtype=kind) for name, kind in FEATURES.items())],
    )  # fmt: skip
    store.apply([entity, view])
    push(store, [f"c{number}" for number in range(cards)])
    return store


def push(store: FeatureStore, cards: list[str]) -> None:
    """Write a row of features for each card."""
    now = datetime.now(UTC)
    rows: dict[str, Any] = {"card": cards, "event_timestamp": [now] * len(cards), "created": [now] * len(cards)}
    for name, kind in FEATURES.items():
        one = ["shop"] * 10 if name == "latest" else 3 if kind is Int64 else 12.5
        rows[name] = [one] * len(cards)
    store.write_to_online_store("card", df=pd.DataFrame(rows))


def read(store: FeatureStore, entities: list[str]) -> list[float]:
    """Seconds for each entity's nine features."""
    taken_s = []
    for entity in entities:
        started = time.perf_counter()
        found = store.get_online_features(features=REFERENCES, entity_rows=[{"card": entity}]).to_dict()
        taken_s.append(time.perf_counter() - started)
        if found["count_1h"] != [3]:
            raise SystemExit(f"Feast has another value than was pushed: {found}")
    return taken_s


def write(store: FeatureStore, rows: int, batch: int) -> float:
    """Seconds to write so many rows of nine features."""
    started = time.perf_counter()
    for first in range(0, rows, batch):
        push(store, [f"c{number}" for number in range(first, first + batch)])
    return time.perf_counter() - started


def answer(value: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
