"""Virtual environments, one per peer, made from its pinned requirements file; and the `wrk` load generator.

Only the standard library is imported here, because this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bench.layout import PEERS, VENVS

DRIVER_REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class InstallError(Exception):
    """A program that the bench needs could not be installed."""


def requirements_of(name: str) -> Path:
    """Return the pinned requirements file of a peer, or of the bench itself (`driver`)."""
    return DRIVER_REQUIREMENTS if name == "driver" else PEERS / name / "requirements.txt"


def python_of(name: str) -> Path:
    """Return the interpreter of environment `name`, which may not exist yet."""
    return VENVS / name / "bin" / "python"


def site_packages_of(name: str) -> Path:
    """Return the folder that environment `name` installs its packages into."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return VENVS / name / "lib" / version / "site-packages"


def ensure_environment(name: str) -> Path:
    """Create or refresh environment `name` where its requirements changed; return its interpreter.

    Every file pins every package, so packages are installed as listed, without resolving dependencies.
    """
    requirements = requirements_of(name)
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = VENVS / name / "requirements.sha256"
    python = python_of(name)
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"bench: installing the environment of {name} from {requirements.name}", flush=True)
    if not python.exists():
        venv.create(VENVS / name, with_pip=True)
    argv = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    outcome = subprocess.run([*argv, "-r", str(requirements)], capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise InstallError(f"pip could not install the environment of {name}:\n{outcome.stderr.strip()[-2000:]}")
    stamp.write_text(digest)
    return python


def ensure_wrk() -> str:
    """Return the path of `wrk`, installing Debian's package where it is missing.

    Raises InstallError with what to do by hand where this is not a Debian system or apt refuses.
    """
    found = shutil.which("wrk")
    if found:
        return found
    if shutil.which("apt-get") is None:
        raise InstallError("the load generator `wrk` is missing and there is no apt-get: install wrk 4.1 by hand")
    print("bench: installing Debian's package `wrk`, the load generator", flush=True)
    for argv in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "wrk"]):
        outcome = subprocess.run(argv, capture_output=True, text=True, check=False)
        if outcome.returncode != 0:
            reason = outcome.stderr.strip()[-500:]
            raise InstallError(f"`{' '.join(argv)}` failed; run it as root, then start the bench again:\n{reason}")
    found = shutil.which("wrk")
    if found is None:
        raise InstallError("apt-get installed `wrk` but it is not on PATH")
    return found
