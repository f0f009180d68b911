"""`onward edge`: from a package to a folder for a device; whole, or not there."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from onward.errors import NotForEdge, UsageError
from onward.package.examples import TOLERANCE
from onward.package.manifest import DIALOGUE_FILE
from onward.package.package import Package, open_package
from onward.runners.edge.certificate import Certificate, Measured, as_record, certify
from onward.runners.edge.python_folder import answers_in_folder, write_folder
from onward.runners.local import find, read_inputs
from onward.types import Item

if TYPE_CHECKING:  # needs numpy's and onnx's parts only where a model is made smaller
    from onward.runners.edge.quantizing import Trial

PYTHON, WEB = "python", "web"
TARGETS = (PYTHON, WEB)
CERTIFICATE_FILE = "certificate.json"
Progress: TypeAlias = Callable[[str], None]
Trials: TypeAlias = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written: the package, what is told of the folder, and the certificate that lies in it."""

    package: Package
    facts: dict[str, Any]
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """That the model is to be made smaller: by which setting, how far answers may change, and on which file of inputs
    that is measured (None: on inputs made of the golden examples). With `force` they may change however much."""

    setting: str
    tolerance: float | None = None
    held_out: Path | None = None
    force: bool = False


def export(
    package: str, out: Path, target: str = PYTHON, *, inputs: int = 0, quantization: Quantization | None = None,
    webgpu: bool = True, progress: Progress = lambda _: None,
) -> Export:  # fmt: skip
    """Export a package as a folder for Python or for browsers, compared on `inputs` inputs (0: not compared).

    Raises `NotForEdge`, `UsageError`, `RunnersDisagree`, `ExecutionError` where the folder does not run, and what
    fetching a bundle's libraries and quantising raise.
    """
    opened = open_package(find(package))
    _check(opened)
    if out.exists():
        raise UsageError("there is something already", where=str(out), expected="a folder to make")
    out.parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    making.mkdir()
    try:
        with tempfile.TemporaryDirectory(prefix="onward-edge-") as place:
            trials: tuple[Trial, ...] = ()
            tolerance = TOLERANCE
            if quantization is not None:
                from onward.runners.edge.smaller import TOLERANCE as STEPS
                from onward.runners.edge.smaller import smaller_package

                given = [str(quantization.held_out)] if quantization.held_out else []
                held_out = [value for _, value in read_inputs(given, opened.manifest.inputs)]
                opened, trials = smaller_package(
                    opened, quantization.setting, Path(place), tolerance=quantization.tolerance,
                    inputs=held_out or None, force=quantization.force, progress=progress,
                )  # fmt: skip
                tolerance = STEPS
            write = partial(_web, webgpu=webgpu) if target == WEB else _python
            facts, certificate = write(opened, making, inputs, tolerance, tuple(map(asdict, trials)), progress)
        text = json.dumps(as_record(certificate), ensure_ascii=False, indent=1)
        (making / CERTIFICATE_FILE).write_text(f"{text}\n", "utf-8")
        making.rename(out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return Export(package=opened, facts=facts, certificate=certificate)


def _python(
    package: Package, making: Path, inputs: int, tolerance: float, trials: Trials, progress: Progress
) -> tuple[dict[str, Any], Certificate]:
    facts = write_folder(package, making)

    def answering(items: Sequence[Item]) -> Measured:
        progress(f"comparing {len(items)} answers")
        started_s = time.perf_counter()
        answers = answers_in_folder(making, items)
        took_ms = (time.perf_counter() - started_s) * 1e3
        runtime = f"Python {sys.version_info.major}.{sys.version_info.minor}, onnxruntime {version('onnxruntime')}"
        return Measured(answers=answers, runtime=runtime, ms_per_answer=took_ms / len(items))

    certificate = certify(package, PYTHON, answering, inputs, tolerance=tolerance)
    return asdict(facts), replace(certificate, quantization=trials)


def _web(
    package: Package, making: Path, inputs: int, tolerance: float, trials: Trials, progress: Progress, *, webgpu: bool
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
    certificate = certify(package, WEB, None if note else answering, inputs, note=note, tolerance=tolerance)
    certificate = replace(certificate, quantization=trials)
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
