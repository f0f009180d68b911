"""Switches each protection off in turn, in a copy, and runs the tests that guard it: one that nobody misses fails.

    python tools/mutate.py [--list] [--part=I/N] [WORD...]

With words, only mutations whose names or files hold one of them; with a part, the I-th of N parts of those.

The copy is a folder with the sources and a virtual environment that has them in front of what is installed, so that
processes which tests start run what was changed, too. The working tree is never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.mutations import MUTATIONS, Mutation  # noqa: E402

TIMEOUT_S = 300
_TESTS_FAILED = 1  # pytest's code; others say that it could not run them


class Copy:
    """The sources in a folder of their own, and the Python that imports them from there."""

    def __init__(self, place: Path) -> None:
        self.sources = place / "src" / "onward"
        shutil.copytree(ROOT / "src" / "onward", self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        venv.create(place / "venv", with_pip=False, symlinks=True)
        self.python = place / "venv" / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = place / "venv" / "lib" / version / "site-packages"
        # In this order: a path in a .pth file comes behind those before it, and .pth files of the second are not read.
        (packages / "copy.pth").write_text(f"{place / 'src'}\n{sysconfig.get_paths()['purelib']}\n")
        found = self._run([str(self.python), "-I", "-c", "import onward; print(onward.__file__)"])
        if not found.stdout.startswith(str(self.sources)):
            raise SystemExit(f"the copy is not what is imported, but {found.stdout or found.stderr}")

    def test(self, arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
        """Run tests on the copy."""
        command = [str(self.python), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not long"]
        return self._run([*command, *arguments])

    def change(self, mutation: Mutation) -> str:
        """Make the change; the text that was there."""
        file = self.sources / mutation.file
        text = file.read_text("utf-8")
        if text.count(mutation.before) != 1:
            raise LookupError(f"{mutation.file} has it {text.count(mutation.before)} times: {mutation.before!r}")
        file.write_text(text.replace(mutation.before, mutation.after), "utf-8")
        return text

    def restore(self, mutation: Mutation, text: str) -> None:
        """Undo it."""
        (self.sources / mutation.file).write_text(text, "utf-8")

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            return subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, _TESTS_FAILED, "", "timeout")


def tried(copy: Copy, mutation: Mutation, whole: set[tuple[str, ...]]) -> str:
    """What is wrong with a protection; "" where a test misses it."""
    if mutation.tests not in whole:
        before = copy.test(mutation.tests)
        if before.returncode:
            return f"its tests do not pass as it is:\n{before.stdout[-1500:]}{before.stderr[-500:]}"
        whole.add(mutation.tests)
    try:
        text = copy.change(mutation)
    except LookupError as error:
        return f"the change fits nowhere: {error}"
    try:
        after = copy.test(mutation.tests)
    finally:
        copy.restore(mutation, text)
    if after.returncode == 0:
        return "SURVIVED: no test misses it"
    if after.returncode != _TESTS_FAILED:
        return f"its tests did not run: status {after.returncode}\n{after.stdout[-1500:]}"
    return ""


def main(words: list[str]) -> int:
    """Try each; 1 where one survives."""
    options = [word for word in words if word.startswith("--")]
    words = [word for word in words if word not in options]
    chosen = [one for one in MUTATIONS if not words or any(word in f"{one.name} {one.file}" for word in words)]
    for option in options:
        if option.startswith("--part="):
            first, _, every = option.removeprefix("--part=").partition("/")
            size = -(-len(chosen) // int(every))
            chosen = chosen[(int(first) - 1) * size : int(first) * size]
    if "--list" in options:
        print("\n".join(f"{one.file}: {one.name}" for one in chosen))
        return 0
    failed = []
    whole: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory(prefix="onward-mutate-") as place:
        copy = Copy(Path(place).resolve())
        for one in chosen:
            started_s = time.monotonic()
            problem = tried(copy, one, whole)
            print(f"{'ok' if not problem else 'FAIL':4} {time.monotonic() - started_s:5.1f} s  {one.file}: {one.name}"
                  f"{': ' + problem if problem else ''}", flush=True)  # fmt: skip
            if problem:
                failed.append(one)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} protections are missed by a test when they are gone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
