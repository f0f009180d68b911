"""Target `ray`: a Ray Serve application of the packages, the nodes' environment, and the job that scores with Ray Data.

Every replica holds Onward's own application (`ray_replica`): Serve scales, heals and replaces, Onward queues and
batches. Requests go from HAProxy straight to a replica, since Serve's usual proxy gives up what a dying replica held.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from onward.package.manifest import load_manifest
from onward.runners.cloud.deployment import ACTIONS, GRACE_S, PORT, READY, Deployment
from onward.runners.cloud.payload import LOCK, write_payload
from onward.runners.cloud.yaml_text import document

CONFIG = "serve.yaml"
MODULE = "application"
ENVIRONMENT = "environment.sh"
ARCHIVE = "application.zip"
EXTRAS = frozenset({"ray", "batch"})
RETRIED = "conn-failure empty-response"
RETRIED_DECISIONS = "conn-failure"
"""What HAProxy sends to another replica: a decision whose replica died may have been recorded, and act."""

BUFFER_BYTES = 1 << 20
_RETRIES = 3
# One core of Serve's way to a replica carries so many answers/s here; a target beyond it would never be seen.
_SERVE_ANSWERS_PER_S = 1000.0
_QUEUE_S = 0.1
_APPLICATION = '''"""The packages of this folder as a Ray Serve application: written by `onward cloud`."""

from pathlib import Path

from ray import serve

from onward.runners.cloud.ray_replica import Replica


class Served(Replica):
    """Onward's routes, queues and batches, with the packages beside this file, wherever it lies on a replica's node."""

    async def __init__(self):
        await self.open(Path(__file__).resolve().parent)


application = serve.deployment(name={name!r})(serve.ingress()(Served)).bind()
'''


def write(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """Write application, configuration, scripts and payload into an empty folder; returns what a person should know."""
    write_payload(deployment, folder, extras=deployment.extras | EXTRAS)
    (folder / f"{MODULE}.py").write_text(_APPLICATION.format(name=deployment.name), "utf-8")
    (folder / CONFIG).write_text(document(config(deployment), comment=_COMMENT), "utf-8")
    (folder / ENVIRONMENT).write_text(_environment(deployment), "utf-8")
    for name, text in (("node.sh", _node()), ("deploy.sh", _deploy()), ("score.sh", _score(deployment))):
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)
    if deployment.storage_uri:
        _archive(deployment, folder)
    return _notes(deployment)


def config(deployment: Deployment) -> dict[str, Any]:
    """Serve's configuration, as its `ServeDeploySchema` has it."""
    variables = {"ONWARD_CORES": f"{deployment.cpus:g}", "ONWARD_DEPLOYED": _digest(deployment)}
    runtime_env: dict[str, Any] = {"env_vars": variables}
    if deployment.storage_uri:
        runtime_env["working_dir"] = deployment.storage_uri
    application = {
        "name": deployment.name,
        "route_prefix": "/",
        "import_path": f"{MODULE}:application",
        "runtime_env": runtime_env,
        "deployments": [_deployment(deployment)],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT},
        "applications": [application],
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    target = target_ongoing_requests(deployment)
    actor: dict[str, Any] = {"num_cpus": deployment.cpus, "memory": deployment.memory_limit_bytes}
    if "cuda" in deployment.devices:
        actor["num_gpus"] = 1
    return {
        "name": deployment.name,
        # Onward's own queues refuse before Serve's do, with its own code.
        "max_ongoing_requests": max(2 * min(one.queue_rows for one in deployment.packages), 2 * target),
        "autoscaling_config": {
            "min_replicas": deployment.min_replicas,
            "max_replicas": deployment.max_replicas,
            "target_ongoing_requests": target,
            "look_back_period_s": 15,
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,
        },
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": deployment.stop_s,
        "ray_actor_options": actor,
    }


def target_ongoing_requests(deployment: Deployment) -> int:
    """How many requests a replica may hold, on average, before another one is started.

    Those that take 0.1 s at the rate measured of the slowest package, at most a quarter of its queue; of packages that
    stream, as many as they have places for. A package that is only a stage is not asked, and does not count.
    """
    asked = [one for one in deployment.packages if one.asked]
    targets = [load_manifest(one.folder).execute.slots for one in asked if one.queue_tokens]
    rows = deployment.queue_metrics.get("onward_queue_rows")
    if rows is not None and any(not one.queue_tokens for one in asked):
        targets.append(min(rows, round(_QUEUE_S * _SERVE_ANSWERS_PER_S * max(1.0, deployment.cpus))))
    return max(1, min(targets))


def _digest(deployment: Deployment) -> str:
    """Another one for other packages: by it Serve notices that there is something new to deploy."""
    lines = [f"{one.name} {one.version} {one.digest}" for one in deployment.packages]
    if deployment.actions:
        lines.append(hashlib.sha256(deployment.actions.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


_COMMENT = f"""A Ray Serve configuration: ./deploy.sh, or `serve deploy {CONFIG}`. Ready: GET {READY}.
The nodes need the environment that ./node.sh starts them with."""


def _environment(deployment: Deployment) -> str:
    """The nodes' environment: Serve's proxies are told by it only, not by the configuration."""
    retried = RETRIED_DECISIONS if deployment.decides else RETRIED
    return (
        "# What Ray's nodes need in their environment, wherever they are started; `here` is this folder.\n"
        'export PYTHONPATH="${here:-$PWD}${PYTHONPATH:+:$PYTHONPATH}"\n'
        "# Who reaches a cluster runs code on it: its ports ask for a token (ray get-auth-token --generate).\n"
        'export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"\n'
        'export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"\n'
        "# HAProxy instead of Serve's own proxy: what a replica held that died goes to another one. For that it\n"
        "# has to have the whole request, up to the buffer's size; the second line is one of its configuration.\n"
        "export RAY_SERVE_ENABLE_HA_PROXY=1\n"
        f"export RAY_SERVE_HAPROXY_RETRIES={_RETRIES}\n"
        f"export RAY_SERVE_HAPROXY_TUNE_BUFSIZE={BUFFER_BYTES}\n"
        f"export RAY_SERVE_HAPROXY_RETRY_ON='{retried}\n"
        "    option http-buffer-request'\n"
        "# One loop for Serve's part and Onward's: answers leave in one piece, not the head before a replica dies.\n"
        "export RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0\n"
        "# How often a replica tells the autoscaler what it holds.\n"
        "export RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S=2\n"
        "# How long a replica that is ending accepts on, while the proxies notice.\n"
        f"export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S={GRACE_S}\n"
    )


_HERE = f'set -eu\nhere=$(cd "$(dirname "$0")" && pwd)\n. "$here/{ENVIRONMENT}"\n'


def _node() -> str:
    return (
        "#!/bin/sh\n"
        "# Starts Ray on this node: ./node.sh --head, on the others ./node.sh --address HEAD:6379.\n"
        f'{_HERE}exec ray start "$@"\n'
    )


def _deploy() -> str:
    return (
        "#!/bin/sh\n"
        "# Deploys, or replaces what is deployed replica by replica; RAY_DASHBOARD_ADDRESS names another cluster.\n"
        f'{_HERE}exec serve deploy "$here/{CONFIG}" "$@"\n'
    )


def _score(deployment: Deployment) -> str:
    """The Ray Data job; a package of several is named by PACKAGE."""
    first = next(one for one in deployment.packages if one.asked)
    return (
        "#!/bin/sh\n"
        "# Scores a table or a folder as a Ray Data job: ./score.sh IN OUT [options of `onward batch`]. The cluster's\n"
        "# address is in RAY_ADDRESS (HOST:PORT); IN and OUT have to be where every node finds them.\n"
        f'{_HERE}package="${{PACKAGE:-$here/repository/{first.name}/{first.version}}}"\n'
        'exec onward batch "$package" "$@" --engine ray --ray-address "${RAY_ADDRESS:?HOST:PORT of the cluster}"\n'
    )


def _archive(deployment: Deployment, folder: Path) -> None:
    """What a replica needs as the archive that Ray fetches: one folder in it, as Ray expects."""
    wanted = [folder / f"{MODULE}.py", *sorted((folder / "repository").rglob("*"))]
    wanted += [folder / ACTIONS] if deployment.actions else []
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in wanted:
            if path.is_file():
                archive.write(path, f"{deployment.name}/{path.relative_to(folder).as_posix()}")


def _notes(deployment: Deployment) -> tuple[str, ...]:
    notes = [
        f"on every node: pip install --require-hashes --requirement {LOCK} (in FOLDER)",
        "start the nodes: FOLDER/node.sh --head; on the others: FOLDER/node.sh --address HEAD:6379",
        "deploy: FOLDER/deploy.sh; score: RAY_ADDRESS=HEAD:6379 FOLDER/score.sh IN OUT",
    ]
    if deployment.storage_uri:
        notes.insert(1, f"upload FOLDER/{ARCHIVE} to {deployment.storage_uri}; the nodes need only {ENVIRONMENT}")
    else:
        notes.insert(1, "every node needs FOLDER, anywhere; --storage-uri …/NAME.zip lets Ray fetch it instead")
    if deployment.decides:
        secrets = ", ".join(("ONWARD_STORE", "ONWARD_KEY", *deployment.secrets))
        notes.append(f"its packages decide: {secrets} belong into the nodes' environment, before node.sh")
        notes.append("decisions are not sent twice: callers retry what fails, with an Idempotency-Key")
    return tuple(notes)
