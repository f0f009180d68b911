"""What decides is imported with the first package that has a policy, and never without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onward.errors import NotFound
from onward.runners.serve.policies import DecisionOptions, Policies
from onward.testing import tiny_package

HEAVY = ("sqlalchemy", "cel", "cryptography", "psycopg")
SCRIPT = """
import asyncio, json, sys
from concurrent.futures import ThreadPoolExecutor
from onward.package.repository import Repository
from onward.runners.serve import server
from onward.runners.serve.admin import make_admin_app
from onward.runners.serve.app import make_app
from onward.runners.serve.models import Models
from onward.runners.serve.policies import DecisionOptions, Policies
from pathlib import Path

async def main():
    with ThreadPoolExecutor(1) as pool:
        policies = Policies(DecisionOptions())
        models = Models(Repository(Path(sys.argv[1])), pool, policies=policies)
        make_app(models, policies), make_admin_app(models, policies)
        await models.scan()
        assert models.ready
        await policies.refresh_backlog()
        await models.close()
        await policies.close()

asyncio.run(main())
print(json.dumps(sorted(sys.modules)))
"""


def test_without_a_policy_nothing_that_decides_is_imported_and_no_store_is_made(tmp_path: Path) -> None:
    tiny_package(tmp_path / "repository" / "tiny" / "1.0.0")
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "repository")], check=True, cwd=tmp_path, capture_output=True
    )
    modules = json.loads(made.stdout)
    assert not [name for name in modules if name.partition(".")[0] in HEAVY]
    assert not [name for name in modules if name.startswith(("onward.act.", "onward.store.sql", "onward.decide.rules"))]
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


async def test_without_a_policy_there_are_no_decisions() -> None:
    policies = Policies(DecisionOptions())
    with pytest.raises(NotFound):
        _ = policies.decisions
    assert list(policies.metrics()) == [] and policies.backlog() is None
    await policies.close()
