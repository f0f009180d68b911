"""Runs one target under atheris, which steers by what code an input reaches. Run as a script.

    python tests/fuzz/fuzz.py TARGET [CORPUS...] [-max_total_time=SECONDS …]      options are libFuzzer's

Exits with 0 after the time, and with another code where an input was found that a target does not survive; libFuzzer
writes it to a file and says where. To keep it, put it below `corpus/TARGET/` once it is mended.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
_WATCHED = ["onward", "tomllib", "zipfile", "python_multipart", "starlette.formparsers", "PIL"]

with atheris.instrument_imports(include=_WATCHED):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz the target named first."""
    name = sys.argv.pop(1)
    target = TARGETS[name]
    target(b"")  # what is imported late is imported now
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
