"""The slim folder: the package, the few modules of Onward that it runs on, and what else to install, by version.

Nothing is written twice for devices: which modules are needed is found out by running the golden examples, and those
very files are copied. So the answers are the server's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from compileall import compile_dir
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import msgspec

import onward
from onward.errors import ExecutionError
from onward.package.package import Package
from onward.package.trust import TRUST_VARIABLE
from onward.runners.agreement.comparison import Answer
from onward.runners.agreement.inputs import as_json
from onward.types import Item

READER = Path(__file__).with_name("reader.py")
_CHECK_S = 600
# What may be needed beside Python itself: the names to import, and to install.
_DISTRIBUTIONS = {
    "numpy": "numpy", "onnxruntime": "onnxruntime", "msgspec": "msgspec", "PIL": "pillow", "tokenizers": "tokenizers",
}  # fmt: skip
_LOOK = """
import json, runpy, sys
sys.argv = ["run.py", "--check"]
try:
    runpy.run_path({reader!r}, run_name="__main__", init_globals=None)
except SystemExit as end:
    if end.code:
        raise
finally:
    names = [name for name in sys.modules if name.partition(".")[0] == "onward"]
    used = [name for name in {others!r} if name in sys.modules]
    print(json.dumps({{"modules": sorted(names), "others": used}}))
"""
# Only what the folder has and its requirements name can be imported, as on a device that has nothing else.
_ALONE = """
import importlib.abc, json, runpy, sys
folder, allowed = sys.argv[1], set(json.loads(sys.argv[2]))
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, folder)
sys.argv = ["run.py", "--check"]
runpy.run_path(folder + "/run.py", run_name="__main__")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """What was written and how it did: `first_answer_ms` from the start of the interpreter's work to an answer."""

    modules: int
    requirements: tuple[str, ...]
    size_bytes: int
    examples: int
    first_answer_ms: float
    memory_bytes: int


def write_folder(package: Package, out: Path) -> FolderFacts:
    """Write the folder into `out`, which exists and is empty, and run its golden examples there."""
    shutil.copytree(package.folder, out / "package")
    needed = _needed(out)
    for name in needed["modules"]:
        _copy(name, out)
    shutil.copyfile(READER, out / "run.py")
    # Compiled here, so that a device with this version of Python need not at every start; checked against the sources.
    compile_dir(out / "onward", quiet=2, stripdir=str(out), invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    others = [_DISTRIBUTIONS[name] for name in needed["others"]]
    requirements = tuple(f"{name}=={version(name)}" for name in others)
    (out / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), "utf-8")
    checked = _checked(out, needed["others"])
    return FolderFacts(
        modules=len(needed["modules"]), requirements=requirements,
        size_bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()), **checked,
    )  # fmt: skip


def answers_in_folder(folder: Path, items: Sequence[Item]) -> list[Answer]:
    """The folder's answers to items, {"error": code} where it refuses. Raises `ExecutionError` where it fails."""
    lines = b"".join(msgspec.json.encode(as_json(item)) + b"\n" for item in items)
    made = subprocess.run(
        [sys.executable, str(folder / "run.py"), "-"], input=lines, capture_output=True, check=False, env=_environment()
    )
    answers = [msgspec.json.decode(line) for line in made.stdout.splitlines()]
    if len(answers) != len(items):
        raise ExecutionError("the exported folder does not answer", found=made.stderr.decode(errors="replace")[-1000:])
    return [{"error": one["error"]} if "error" in one else one for one in answers]


def _needed(out: Path) -> dict[str, list[str]]:
    """The modules of Onward that the package runs on, and the libraries."""
    reader = out / "run.py"
    shutil.copyfile(READER, reader)
    found: dict[str, list[str]] = _told(["-c", _LOOK.format(reader=str(reader), others=list(_DISTRIBUTIONS))])
    return found


def _copy(name: str, out: Path) -> None:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin)
    root = Path(onward.__file__).parent.parent
    target = out / source.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _checked(out: Path, others: list[str]) -> dict[str, Any]:
    """The golden examples, run by the folder alone."""
    allowed = ["onward", *others]
    found = _told(["-I", "-B", "-c", _ALONE, str(out), json.dumps(allowed)])
    return {name: found[name] for name in ("examples", "first_answer_ms", "memory_bytes")}


def _environment() -> dict[str, str]:
    """Ours, without the policy on signatures: the package was verified, and a device need not have what verifies."""
    return {name: value for name, value in os.environ.items() if name != TRUST_VARIABLE}


def _told(arguments: list[str]) -> Any:
    try:
        made = subprocess.run(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHECK_S,
            check=False, env=_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        expected = f"the golden examples answered within {_CHECK_S} s"
        raise ExecutionError("the exported folder does not come to an end", expected=expected) from None
    if made.returncode:
        raise ExecutionError("the exported folder does not run", found=made.stderr.strip()[-1000:])
    return json.loads(made.stdout.splitlines()[-1])
