"""`onward edge`: from a package to a folder for a device; whole, or not there."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onward.errors import NotForEdge, UsageError
from onward.package.assembly import DIALOGUE_FILE
from onward.package.package import Package, open_package
from onward.runners.edge.certificate import Certificate, Measured, as_record, certify
from onward.runners.edge.python_folder import answers_in_folder, write_folder
from onward.runners.local import find
from onward.types import Item

PYTHON, WEB = "python", "web"
TARGETS = (PYTHON, WEB)
CERTIFICATE_FILE = "certificate.json"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written: the package, what is told of the folder, and the certificate that lies in it."""

    package: Package
    facts: dict[str, Any]
    certificate: Certificate


def export(
    package: str, out: Path, target: str = PYTHON, *, inputs: int = 0, webgpu: bool = True,
    progress: Progress = lambda _: None,
) -> Export:  # fmt: skip
    """Export a package as a folder for Python or for browsers, compared on `inputs` inputs (0: not compared).

    Raises `NotForEdge`, `UsageError`, `RunnersDisagree`, `ExecutionError` where the folder does not run, and what
    fetching a bundle's libraries raises.
    """
    opened = open_package(find(package))
    _check(opened)
    if out.exists():
        raise UsageError("there is something already", where=str(out), expected="a folder to make")
    out.parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    making.mkdir()
    try:
        if target == WEB:
            facts, certificate = _web(opened, making, inputs, webgpu, progress)
        else:
            facts, certificate = _python(opened, making, inputs, progress)
        text = json.dumps(as_record(certificate), ensure_ascii=False, indent=1)
        (making / CERTIFICATE_FILE).write_text(f"{text}\n", "utf-8")
        making.rename(out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return Export(package=opened, facts=facts, certificate=certificate)


def _python(package: Package, making: Path, inputs: int, progress: Progress) -> tuple[dict[str, Any], Certificate]:
    facts = write_folder(package, making)

    def answering(items: Sequence[Item]) -> Measured:
        progress(f"comparing {len(items)} answers")
        started_s = time.perf_counter()
        answers = answers_in_folder(making, items)
        took_ms = (time.perf_counter() - started_s) * 1e3
        runtime = f"Python {sys.version_info.major}.{sys.version_info.minor}, onnxruntime {version('onnxruntime')}"
        return Measured(answers=answers, runtime=runtime, ms_per_answer=took_ms / len(items))

    return asdict(facts), certify(package, PYTHON, answering, inputs)


def _web(
    package: Package, making: Path, inputs: int, webgpu: bool, progress: Progress
) -> tuple[dict[str, Any], Certificate]:
    from onward.runners.edge.web.browser import answers_in_browser, browser
    from onward.runners.edge.web.bundle import write_bundle, write_index

    facts = write_bundle(package, making, webgpu=webgpu, progress=progress)

    def answering(items: Sequence[Item]) -> Measured:
        progress(f"comparing {len(items)} answers in a browser")
        made = answers_in_browser(making, items)
        threads = f"{made.threads} thread{'s' if made.threads > 1 else ''}"
        runtime = f"{made.browser}, {facts.libraries[0]} on {made.device}, {threads}"
        return Measured(answers=made.answers, runtime=runtime, ms_per_answer=made.ms_per_answer)

    note = "" if browser() else "no browser here to run the bundle in"
    certificate = certify(package, WEB, None if note else answering, inputs, note=note)
    write_index(
        package, making, webgpu=facts.webgpu, libraries=facts.libraries, certificate=as_record(certificate)
    )  # fmt: skip
    return asdict(facts), certificate


def _check(package: Package) -> None:
    manifest = package.manifest
    if manifest.stages:
        raise NotForEdge("a package of packages needs all of them", where=package.id.name, expected="one model")
    if manifest.execute.backend != "onnx":
        expected = "an ONNX model; language models, speech and Python code need a server"
        raise NotForEdge(where=package.id.name, expected=expected, found=f'backend = "{manifest.execute.backend}"')
    if (package.folder / DIALOGUE_FILE).is_file():
        raise NotForEdge("conversations are kept in a store", where=package.id.name, expected="answers alone")
