"""Onward itself: the installed command, with the flags of `make run` and nothing tuned for the bench."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.layout import REPOSITORIES, ROOT
from bench.peers.contender import Launch, Served, Setting

COMMAND = ROOT / ".venv" / "bin" / "onward"
VERSION = "1.0.0"


class Onward:
    """`onward serve REPOSITORY` with metrics, limits, deadlines and request ids on, as installed."""

    name = "onward"

    def install(self) -> None:
        """Nothing to do: `make setup` installs it."""
        if not COMMAND.exists():
            raise FileNotFoundError("the command .venv/bin/onward is missing: run `make setup` first")

    def version(self) -> str:
        """What is measured."""
        outcome = subprocess.run([str(COMMAND), "--version"], capture_output=True, text=True, check=False)
        return f"Onward {outcome.stdout.strip().splitlines()[-1]}" if outcome.stdout.strip() else "Onward"

    def settings(self, served: Served) -> list[Setting]:
        """One setting: the default."""
        return [{}]

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Pack the model where it is not a package yet, and start the server on a repository of this one package."""
        repository = self._repository(served)
        argv = [str(COMMAND), "serve", str(repository), "--host", "127.0.0.1"]
        return Launch(argv=[*argv, "--port", str(port), "--admin-port", str(port + 1)])

    def dialect(self, served: Served, setting: Setting) -> str:
        """V2 for tensors, the plain route for photos and texts."""
        return "onward"

    def ready_path(self, served: Served) -> str:
        """The V2 readiness path."""
        return "/v2/health/ready"

    def _repository(self, served: Served) -> Path:
        repository = REPOSITORIES / f"onward-{served.name}"
        if (served.folder / "onward.lock").exists():  # a gallery package: always as built last
            shutil.rmtree(repository, ignore_errors=True)
            shutil.copytree(served.folder, repository / served.name / served.folder.name)
            return repository
        package = repository / served.name / VERSION
        model = served.folder / "model.onnx"
        if not (package / "onward.lock").exists():
            shutil.rmtree(repository, ignore_errors=True)
            package.parent.mkdir(parents=True)
            argv = [str(COMMAND), "pack", str(model), str(package), "--name", served.name, "--version", VERSION]
            subprocess.run(argv, check=True, capture_output=True)
        return repository
