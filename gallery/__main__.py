"""`python -m gallery build NAME…` and `python -m gallery show`: build example packages, serve them, ask each.

A build runs in a process of its own and writes its progress, one JSON line a step, to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gallery.builds import NAMES, build_here
from gallery.showcase import Showcase
from onward.errors import OnwardError

REPOSITORY = Path("var/repository")


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build packages into the repository")
    build.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    show = commands.add_parser("show", help="serve the gallery, building what is missing, and ask each package")
    show.add_argument("--once", action="store_true", help="exit after the answers")
    show.add_argument("--port", type=int, default=8000)
    show.add_argument("--admin-port", type=int, default=8002)
    for command in (build, show):
        command.add_argument("--repository", type=Path, default=REPOSITORY)
    options = parser.parse_args()
    try:
        if options.command == "build":
            unknown = sorted(set(options.names) - set(NAMES))
            if unknown:
                parser.error(f"no example package {', '.join(unknown)}; there are {', '.join(NAMES)}")
            for name in options.names or NAMES:
                build_here(name, options.repository, _print_progress)
            return 0
        return Showcase(options.repository, port=options.port, admin_port=options.admin_port).run(once=options.once)
    except OnwardError as error:
        print(f"error: {error} [{error.code}]", file=sys.stderr)
        return error.exit_code


def _print_progress(name: str, step: str, share: float) -> None:
    print(json.dumps({"name": name, "step": step, "share": share}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
