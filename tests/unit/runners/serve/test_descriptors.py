"""How many connections are held."""

from __future__ import annotations

import resource
import subprocess
import sys

from onward.runners.serve.descriptors import most_connections


def test_some_files_are_kept_for_other_things() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < most_connections() <= soft - 64


def test_the_soft_limit_becomes_the_hard_one() -> None:
    text = """
import resource
from onward.runners.serve.descriptors import most_connections, raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 400))
few = most_connections()
raise_limit()
print(few, most_connections(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split("\n")[0] == "64 336 (400, 400)"
