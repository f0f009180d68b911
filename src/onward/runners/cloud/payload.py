"""What is to be installed, wherever it goes: the lock with Onward's own wheel, the packages, the bill of materials."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onward
from onward.runners.cloud.deployment import ACTIONS, Deployment
from onward.runners.cloud.distributions import pins
from onward.runners.cloud.materials import bill
from onward.runners.cloud.packages import copy
from onward.runners.cloud.wheel import write_wheel

LOCK = "requirements.lock"
WHEELS = "wheels"
BILL = "bill-of-materials.cdx.json"


def write_payload(deployment: Deployment, folder: Path, *, extras: Iterable[str] = ()) -> None:
    """Write it into a folder, with these extras of Onward besides those of the packages.

    Raises `MissingExtra` where the lock lacks something, `DigestMismatch` for a bad copy.
    """
    wheels = folder / WHEELS
    wheels.mkdir(parents=True)
    wheel = write_wheel(wheels)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pinned = pins({*deployment.extras, *extras})
    lines = [pin.line() for pin in pinned]
    lines.append(f"./{WHEELS}/{wheel.name} \\\n    --hash=sha256:{sha256}")
    (folder / LOCK).write_text("\n".join(lines) + "\n", "utf-8")
    copy(deployment.packages, folder / "repository")
    if deployment.actions:
        (folder / ACTIONS).write_bytes(deployment.actions.read_bytes())
    for path in (folder / "repository").rglob("*"):  # whoever runs it may read it, whatever its modes were here
        path.chmod(0o755 if path.is_dir() else 0o644)
    made = bill(deployment.name, deployment.version, onward.__version__, sha256, pinned, deployment.packages)
    (folder / BILL).write_text(made, "utf-8")
