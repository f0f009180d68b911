"""Target `docker`: a build context that any engine builds: Containerfile, lock, wheel, packages, bill of materials.

The build stage installs what the lock pins into a virtual environment; the last stage takes that and the packages. It
needs no shell, runs as a user without a name, and writes only to /tmp and, where it decides, to one folder more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from onward.runners.cloud.deployment import (
    ACTIONS,
    LIVE,
    PORT,
    READY,
    REPOSITORY,
    SCRATCH,
    STATE,
    UID,
    VENV,
    Deployment,
)
from onward.runners.cloud.payload import BILL, LOCK, WHEELS, write_payload

CONTAINERFILE = "Containerfile"


def write(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """Write the context into an empty folder; returns what a person should know besides."""
    write_payload(deployment, folder)
    (folder / CONTAINERFILE).write_text(containerfile(deployment), "utf-8")
    sent = [LOCK, WHEELS, "repository", BILL, *([ACTIONS] if deployment.actions else [])]
    for name in (".dockerignore", ".containerignore"):
        (folder / name).write_text("\n".join(["*", *(f"!{one}" for one in sent)]) + "\n", "utf-8")
    (folder / "run.sh").write_text(_run(deployment), "utf-8")
    (folder / "run.sh").chmod(0o755)
    notes = [f"build: docker build --file {CONTAINERFILE} --tag {deployment.image} FOLDER"]
    if "@sha256:" not in deployment.base:
        notes.append("the base image is named by a tag: pin it with --base IMAGE@sha256:…")
    if deployment.devices:
        wanted = ", ".join(sorted(deployment.devices))
        notes.append(
            f"{wanted}: the lock has onnxruntime for processors; use a base and a lock with the one for devices"
        )
    code = [one.name for one in deployment.packages if one.runs_python]
    if code:
        notes.append(f"{', '.join(code)}: Python code; what it imports besides numpy is not in the lock")
    return tuple(notes)


def health_command() -> list[str]:
    """Exits with 0 when the server is ready; needs nothing but the image's Python."""
    code = (
        "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', " + str(PORT) + ", timeout=4); "
        f"c.request('GET', '{READY}'); sys.exit(c.getresponse().status != 200)"
    )
    return [str(VENV / "bin" / "python"), "-I", "-c", code]


def containerfile(deployment: Deployment) -> str:
    """The image, step by step."""
    pip = ["python", "-m", "pip", "--python", str(VENV / "bin" / "python"), "install", "--no-cache-dir"]
    pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "--requirement", LOCK]
    variables = deployment.environment()
    if deployment.decides:
        variables |= {"ONWARD_STORE": f"sqlite:///{STATE}/onward.db"}
    owned = f"{UID}:{UID}"
    state = [f"RUN {_exec(['install', '-d', '-m', '0700', '-o', str(UID), '-g', str(UID), str(STATE)])}"]
    lines = [
        f"# {deployment.name}: written by `onward cloud`; build it in this folder.",
        f"FROM {deployment.base} AS build",
        "WORKDIR /opt/build",
        f"RUN {_exec(['python', '-m', 'venv', '--without-pip', str(VENV)])}",
        f"COPY {LOCK} ./",
        f"COPY {WHEELS} ./{WHEELS}",
        f"RUN {_exec(pip)}",
        f"RUN {_exec([str(VENV / 'bin' / 'python'), '-m', 'compileall', '-q', '-j', '0', str(VENV / 'lib')])}",
        "",
        f"FROM {deployment.base}",
        f"LABEL {_labels(deployment)}",
        *(state if deployment.decides else []),
        f"COPY --from=build {VENV} {VENV}",
        f"COPY {BILL} {REPOSITORY.parent}/{BILL}",
        f"COPY repository {REPOSITORY}",
        *([f"COPY {ACTIONS} {REPOSITORY.parent}/{ACTIONS}"] if deployment.actions else []),
        f"ENV {_pairs(variables)}",
        f"USER {owned}",
        f"WORKDIR {SCRATCH}",
        f"EXPOSE {PORT}/tcp",
        "STOPSIGNAL SIGTERM",
        f"HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period={deployment.start_limit_s}s \\\n"
        f"    CMD {_exec(health_command())}",
        f"ENTRYPOINT {_exec(deployment.command())}",
    ]
    return "\n".join(lines) + "\n"


def _labels(deployment: Deployment) -> str:
    labels = {
        "org.opencontainers.image.title": deployment.name,
        "org.opencontainers.image.version": deployment.version,
        "onward.packages": ",".join(f"{one.name}=={one.version}@{one.digest}" for one in deployment.packages),
    }
    return _pairs({name: value for name, value in labels.items() if value})


def _pairs(values: Mapping[str, str]) -> str:
    """NAME="value", one a line; a `$` is kept from being read as a variable."""
    quoted = {name: json.dumps(value).replace("$", "\\$") for name, value in values.items()}
    return " \\\n    ".join(f"{name}={value}" for name, value in quoted.items())


def _exec(arguments: Sequence[str]) -> str:
    """The form without a shell: nothing in an argument is ever read as a command."""
    return json.dumps(list(arguments))


def _run(deployment: Deployment) -> str:
    """How to start it as closed as it can be; extra arguments go to the engine."""
    memory = deployment.memory_limit_bytes >> 20
    secrets = "".join(f"    --env {name} \\\n" for name in deployment.secrets)
    volume = f"    --volume {deployment.name}-state:{STATE} \\\n" if deployment.decides else ""
    return (
        "#!/bin/sh\n"
        "# Runs the image on port 8000 of this machine only. ENGINE=podman uses another engine.\n"
        f"# Alive: GET {LIVE}; ready: GET {READY}.\n"
        "set -eu\n"
        'exec "${ENGINE:-docker}" run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \\\n'
        f"    --tmpfs {SCRATCH}:rw,noexec,nosuid,size=256m --user {UID}:{UID} --pids-limit 512 \\\n"
        f"    --cpus {deployment.cpus:g} --memory {memory}m --stop-timeout {deployment.stop_s} \\\n"
        f"{volume}{secrets}"
        f'    --publish 127.0.0.1:{PORT}:{PORT} "$@" {deployment.image}\n'
    )
