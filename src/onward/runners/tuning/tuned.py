"""`onward tune`: the search on this machine, and what it found as a package, as data and as a picture."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from onward.errors import PackageError, UsageError
from onward.execute.cores import cores
from onward.package.archive import SUFFIX, write_archive
from onward.package.digest import SIGNATURE_FILE
from onward.package.manifest import MANIFEST_FILE, is_version
from onward.package.package import Package, open_package
from onward.runners.tuning.plot import curves_svg
from onward.runners.tuning.rig import Bench, copy_with, values_of
from onward.runners.tuning.search import Found, Search
from onward.runners.tuning.trial import Setting, Trial
from onward.types import PackageId

DATA_FILE, PLOT_FILE = "tuning.json", "tuning.svg"
_BATCHED = ("onnx", "python")


def tune(
    package: Package, *, bound_ms: float, budget_s: float, requests: Path | None, progress: Callable[[str], None]
) -> Found:
    """Search for the setting that holds p99 at the highest rate. Raises `UsageError` for what runs in no batches."""
    manifest = package.manifest
    if manifest.stages or manifest.execute.backend not in _BATCHED:
        raise UsageError(
            "requests of this package do not run in batches", where=package.id.name,
            expected=f"backend {' or '.join(_BATCHED)}",
            found="stages" if manifest.stages else manifest.execute.backend,
        )  # fmt: skip
    execute = manifest.execute
    current = Setting(
        max_batch_size=manifest.batching.max_batch_size, instances=execute.instances, threads=execute.threads
    )
    bench = Bench(package, requests, bound_ms=bound_ms)
    try:
        return Search(
            bench.rig, current, cores=cores(), threads_count=execute.backend == "onnx", bound_ms=bound_ms,
            budget_s=budget_s, progress=progress,
        ).run()  # fmt: skip
    finally:
        bench.close()


def report(package: Package, found: Found) -> dict[str, Any]:
    """All that was found, as JSON holds it."""
    return {
        "package": package.id.name, "version": package.id.version, "digest": package.id.digest,
        "machine": machine(), "doubtful": found.doubtful, "p99_bound_ms": found.bound_ms,
        "current": asdict(found.current),
        "best": None if found.best is None else asdict(found.best), "gain": _finite(round(found.gain, 4)),
        "noise": round(found.noise, 4), "settings": [_trial(one, found.bound_ms) for one in found.finals],
        "screened": [_trial(one, found.bound_ms) for one in found.screened],
        "skipped": [asdict(one) for one in found.skipped],
    }  # fmt: skip


def _trial(trial: Trial, bound_ms: float) -> dict[str, Any]:
    return {
        "setting": asdict(trial.setting), "capacity_per_s": round(trial.capacity_per_s, 2),
        "held_per_s": round(trial.held_per_s(bound_ms), 2),
        "held_per_s_climbs": [round(one, 2) for one in trial.held_in_climbs(bound_ms)],
        "curve": [{name: _finite(value) for name, value in asdict(point).items()} for point in trial.curve()],
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def machine() -> dict[str, Any]:
    """What the figures hold for: a tuned package says where it was tuned."""
    import onnxruntime

    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text("utf-8", "replace").splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), "")
    return {
        "processor": model or platform.machine(), "cores": cores(), "system": platform.system(),
        "load_average": round(os.getloadavg()[1], 2), "onnxruntime": str(onnxruntime.__version__),
    }  # fmt: skip


def write(package: Package, found: Found, out: Path, *, version: str = "") -> PackageId:
    """The package with the best setting, as a folder or archive that is not there yet; its version is the next one.

    Raises `UsageError` where `out` exists, and `ManifestError` where the manifest is written in a way that cannot be
    changed without changing more.
    """
    if out.exists():
        raise UsageError("there is something already", where=str(out), expected="a new path")
    version = version or next_version(package.id.version)
    if not is_version(version):
        raise UsageError("not a version", where="--version", expected="one to four dotted numbers", found=version[:40])
    workplace = Path(tempfile.mkdtemp(prefix=".tuning-", dir=out.resolve().parent))
    try:
        made = _made(package, found, workplace / "package", {"package.version": version}, link=False)
        if out.suffix == SUFFIX:
            write_archive(made.folder, out)
        else:
            made.folder.rename(out)
        return made.id
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def apply(package: Package, found: Found) -> PackageId:
    """The package's folder itself with the best setting. A signature of what it was before is removed.

    Raises `PackageError` where the folder cannot be written.
    """
    folder = package.folder
    if not os.access(folder, os.W_OK):
        raise PackageError("the folder cannot be written", where=str(folder), expected="--out FOLDER")
    workplace = Path(tempfile.mkdtemp(prefix=".tuning-", dir=folder.resolve().parent))
    try:
        made = _made(package, found, workplace / "package", {}, link=True)
        # The lock comes last: until it is there, the folder is what it was, or is refused, but is never half of both.
        for name in (DATA_FILE, PLOT_FILE, MANIFEST_FILE, "onward.lock"):
            (made.folder / name).replace(folder / name)
        (folder / SIGNATURE_FILE).unlink(missing_ok=True)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return open_package(folder, verify=False).id  # it was verified before, and changed here


def _made(package: Package, found: Found, folder: Path, values: Mapping[str, str], *, link: bool) -> Package:
    assert found.best is not None
    told = report(package, found)
    title = f"{package.id.name} on {told['machine']['processor']}, {told['machine']['cores']} core(s)"
    picture = curves_svg(found.finals, bound_ms=found.bound_ms, best=found.best, title=title)
    data = msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"
    now = values_of(found.current)
    wanted = {path: value for path, value in values_of(found.best).items() if value != now[path]}
    extra = {DATA_FILE: data, PLOT_FILE: picture.encode("utf-8")}
    return copy_with(package, folder, wanted | dict(values), extra, link=link)


def next_version(version: str) -> str:
    """The version after this one: its last number and one."""
    *front, last = version.split(".")
    return ".".join([*front, str(int(last) + 1)])
