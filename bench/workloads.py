"""What is measured, and what must come out: the bench's table of targets as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench import models
from bench.layout import ROOT
from bench.peers.contender import Served

GALLERY = ROOT / "var" / "repository"


@dataclass(frozen=True, kw_only=True)
class Target:
    """The ratio of Onward's requests/s to the best peer's at one number of connections."""

    must: float
    aim: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of request, at one or more numbers of connections."""

    name: str
    title: str
    model: str  # mlp-small | mlp-large | a package of the gallery
    form: str  # json | binary | image | text
    connections: tuple[int, ...]
    targets: dict[int, Target] = field(default_factory=dict)
    objective: str = "throughput"  # throughput | latency: what a tuning pass optimises
    limit: bool = False  # also measure onnxruntime in-process under the same load
    starts: int = 1  # fresh starts a round; above one only for the start workload


WORKLOADS = (
    Workload(
        name="small-json",
        title="MLP 30-64-32-1, V2 JSON, 1 row a request",
        model="mlp-small",
        form="json",
        connections=(32, 128),
        targets={32: Target(must=3.5, aim=4.5), 128: Target(must=3.0, aim=4.5)},
    ),
    Workload(
        name="small-json-single",
        title="MLP 30-64-32-1, V2 JSON, 1 connection",
        model="mlp-small",
        form="json",
        connections=(1,),
        objective="latency",
    ),
    Workload(
        name="large-json",
        title="MLP 384-2048-2048-2048-64, V2 JSON, 1 row a request",
        model="mlp-large",
        form="json",
        connections=(32, 128),
        targets={32: Target(must=1.2, aim=1.5), 128: Target(must=1.2, aim=1.5)},
        limit=True,
    ),
    Workload(
        name="large-binary",
        title="MLP 384-2048-2048-2048-64, binary, 1 row a request",
        model="mlp-large",
        form="binary",
        connections=(32, 128),
        targets={32: Target(must=1.2, aim=1.5), 128: Target(must=1.2, aim=1.5)},
        limit=True,
    ),
    Workload(
        name="vision",
        title="vision: a JPEG a request",
        model="vision",
        form="image",
        connections=(16,),
        targets={16: Target(must=1.0, aim=1.5)},
    ),
    Workload(
        name="intent",
        title="intent: texts of mixed lengths, one a request",
        model="intent",
        form="text",
        connections=(32,),
        targets={32: Target(must=1.0, aim=1.5)},
    ),
    Workload(
        name="start",
        title="start with one small package",
        model="mlp-small",
        form="json",
        connections=(),
        starts=2,
    ),
)

LIMIT_RATIO = 0.7  # of the in-process limit, an aim
READY_MUST_S, READY_AIM_S = 1.0, 0.6
SINGLE_P50_AIM_US = 100.0


def served_by(workload: Workload) -> Served | None:
    """Return what this workload serves; None where its gallery package has not been built."""
    for perceptron in (models.SMALL, models.LARGE):
        if perceptron.name == workload.model:
            return Served(name=workload.model, folder=models.ensure_model(perceptron), form=workload.form)
    folder = _newest(GALLERY / workload.model)
    return None if folder is None else Served(name=workload.model, folder=folder, form=workload.form)


def _newest(package: Path) -> Path | None:
    if not package.is_dir():
        return None
    versions = [path for path in package.iterdir() if (path / "onward.lock").exists()]
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)
