"""Target `systemd`: units for N replicas on one port of one machine, and the script that replaces them one by one.

Every replica has a socket of its own on the same port (SO_REUSEPORT: the kernel spreads connections), which systemd
holds. While a replica is replaced, connections to its socket wait instead of being refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from onward.runners.cloud.deployment import ACTIONS, ADMIN_PORT, PORT, Deployment
from onward.runners.cloud.payload import BILL, LOCK, write_payload

FIRST_ADMIN_PORT = 9000
_HARDENING = {
    "DynamicUser": "yes", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "",
    "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
    "PrivateUsers": "yes", "ProtectHostname": "yes", "ProtectClock": "yes", "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes", "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes",
    "ProtectProc": "invisible", "ProcSubset": "all", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "LockPersonality": "yes",
    "RemoveIPC": "yes", "SystemCallArchitectures": "native", "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0077",
}  # fmt: skip


def write(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """Write units, scripts and what they install into an empty folder; returns what a person should know besides."""
    write_payload(deployment, folder)
    unit = unit_name(deployment)
    (folder / f"{unit}@.service").write_text(service(deployment), "utf-8")
    (folder / f"{unit}@.socket").write_text(_socket(deployment), "utf-8")
    for name, text in (("install.sh", _install(deployment)), ("rolling-restart.sh", _rolling_restart(deployment))):
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)
    notes = ["as root, in FOLDER: ./install.sh; later, for new packages: ./install.sh && ./rolling-restart.sh"]
    if deployment.decides:
        secrets = ", ".join(("ONWARD_STORE", "ONWARD_KEY", *deployment.secrets))
        notes.append(f"its packages decide: {secrets} belong into /etc/{unit}/environment")
    return tuple(notes)


def unit_name(deployment: Deployment) -> str:
    """What the units are called, without `@.service`."""
    return deployment.name


def home(deployment: Deployment) -> PurePosixPath:
    """Where it is installed."""
    return PurePosixPath(deployment.prefix) / unit_name(deployment)


def command(deployment: Deployment) -> list[str]:
    """The server's command with systemd's `%i` in the port that each replica has for itself."""
    place = home(deployment) / "current"
    words = deployment.command(place, str(place / "venv" / "bin" / "onward"))
    return [f"{FIRST_ADMIN_PORT // 100}%i" if word == str(ADMIN_PORT) else word for word in words]


def service(deployment: Deployment) -> str:
    """The service's unit: one replica, `%i` from 01 to 99."""
    unit = unit_name(deployment)
    # Not the container's HOME: PrivateTmp gives each replica a /tmp of its own, as there.
    variables = deployment.environment()
    if deployment.decides:
        variables |= {"ONWARD_STORE": f"sqlite:////var/lib/{unit}/onward.db"}
    hardening = dict(_HARDENING)
    if deployment.devices:
        hardening |= {"PrivateDevices": "no"}
    limits = {"MemoryMax": f"{deployment.memory_limit_bytes >> 20}M", "TasksMax": "512"}
    limits |= {"CPUQuota": f"{math.ceil(deployment.cpus * 100)}%"}
    sections: dict[str, list[tuple[str, str]]] = {
        "Unit": [
            ("Description", f"Onward {deployment.name}, replica %i"),
            ("Requires", f"{unit}@%i.socket"),
            ("After", f"network.target {unit}@%i.socket"),
        ],
        "Service": [
            ("Type", "notify"),
            ("ExecStart", " ".join(map(_word, command(deployment)))),
            *(("Environment", _word(f"{name}={value}")) for name, value in variables.items()),
            ("EnvironmentFile", f"-/etc/{unit}/environment"),
            ("User", unit[:31].rstrip("-")),
            ("StateDirectory", unit),
            ("StateDirectoryMode", "0700"),
            ("WorkingDirectory", f"/var/lib/{unit}"),
            ("KillSignal", "SIGTERM"),
            ("KillMode", "mixed"),
            ("TimeoutStopSec", str(deployment.stop_s)),
            ("TimeoutStartSec", str(deployment.start_limit_s)),
            ("Restart", "always"),
            ("RestartSec", "1"),
            *limits.items(),
            *hardening.items(),
        ],
        "Install": [("WantedBy", "multi-user.target")],
    }
    return _unit(sections, f"{deployment.name}: one replica of several; written by `onward cloud`.")


def replicas(deployment: Deployment) -> Iterable[str]:
    """The replicas' numbers as systemd has them behind the `@`."""
    return [f"{number:02}" for number in range(1, deployment.min_replicas + 1)]


def _socket(deployment: Deployment) -> str:
    sections = {
        "Unit": [("Description", f"Onward {deployment.name}, replica %i: its share of port {PORT}")],
        "Socket": [("ListenStream", f"0.0.0.0:{PORT}"), ("ReusePort", "yes"), ("Backlog", "4096")],
        "Install": [("WantedBy", "sockets.target")],
    }
    return _unit(sections, "Held by systemd while the replica is replaced: callers wait, and are not refused.")


def _unit(sections: Mapping[str, list[tuple[str, str]]], comment: str) -> str:
    parts = [f"# {comment}\n"]
    for name, lines in sections.items():
        parts.append(f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in lines))
    return "\n".join(parts)


def _word(text: str) -> str:
    """An argument as systemd reads it back: quoted where it has to be, `%i` the only specifier that we use."""
    kept = text.replace("%i", "\0").replace("%", "%%").replace("$", "$$").replace("\0", "%i")
    plain = all(character.isalnum() or character in "%/._-=:,+@" for character in kept)
    return kept if plain else '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _install(deployment: Deployment) -> str:
    unit, place = unit_name(deployment), home(deployment)
    actions = f' "$here/{ACTIONS}"' if deployment.actions else ""
    lines = [
        "#!/bin/sh",
        "# Installs this folder as a release of its own, makes it the current one and starts what does not run yet.",
        "# What runs already goes on with its release until rolling-restart.sh. ROOTLESS=1 leaves systemd alone.",
        "set -eu",
        'here=$(cd "$(dirname "$0")" && pwd)',
        f'digest=$(sha256sum "$here/{LOCK}" "$here"/repository/*/*/onward.lock{actions} | sha256sum | cut -c1-16)',
        f'release="{place}/releases/$digest"',
        'if [ ! -e "$release/done" ]; then',
        '    mkdir -p "$release"',
        f'    cp -R "$here/repository" "$here/{BILL}"{actions} "$release/"',
        '    python3 -m venv "$release/venv"',
        '    (cd "$here" && "$release/venv/bin/python" -m pip install --quiet --disable-pip-version-check \\',
        f"        --require-hashes --only-binary :all: --requirement {LOCK})",
        '    chmod -R a+rX,go-w "$release"',
        '    touch "$release/done"',
        "fi",
        f'ln -sfn "$release" "{place}/current.new" && mv -T "{place}/current.new" "{place}/current"',
        '[ -n "${ROOTLESS:-}" ] && exit 0',
        f'install -m 0644 "$here/{unit}@.service" "$here/{unit}@.socket" /etc/systemd/system/',
        f"install -d -m 0700 /etc/{unit}",
        "systemctl daemon-reload",
        f"for replica in {' '.join(replicas(deployment))}; do",
        f'    systemctl enable --now "{unit}@$replica.socket" "{unit}@$replica.service"',
        "done",
    ]
    return "\n".join(lines) + "\n"


def _rolling_restart(deployment: Deployment) -> str:
    unit = unit_name(deployment)
    lines = [
        "#!/bin/sh",
        "# Replaces the replicas one by one. `systemctl restart` comes back once the new one is ready (Type=notify);",
        "# where it does not get ready this ends, and the others go on as they were.",
        "set -eu",
        f"for replica in {' '.join(replicas(deployment))}; do",
        f'    systemctl restart "{unit}@$replica.service"',
        "done",
    ]
    return "\n".join(lines) + "\n"
