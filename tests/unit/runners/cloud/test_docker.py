"""The build context is whole, pinned by hashes, and its image does nothing as root."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from onward.package.digest import read_lock, verify_folder
from onward.runners.cloud import docker
from onward.runners.cloud.deployment import READY, UID
from tests.unit.runners.cloud.conftest import Make
from tests.unit.runners.cloud.containerfile import Stage, read


@pytest.fixture
def context(deployment: Make, tmp_path: Path) -> Path:
    docker.write(deployment(), tmp_path)
    return tmp_path


@pytest.fixture
def stages(context: Path) -> list[Stage]:
    return read(context / "Containerfile")


def test_every_instruction_is_known_and_none_is_read_by_a_shell(stages: list[Stage]) -> None:
    known = {"RUN", "COPY", "WORKDIR", "LABEL", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert {step.name for stage in stages for step in stage.steps} <= known
    commands = [step for stage in stages for name in ("RUN", "HEALTHCHECK", "ENTRYPOINT") for step in stage.of(name)]
    assert commands and all(step.is_exec for step in commands)


def test_the_last_stage_ends_as_a_user_without_rights_by_number(stages: list[Stage]) -> None:
    last = stages[-1]
    (user,) = last.of("USER")
    assert user.text == f"{UID}:{UID}"
    assert not [step for step in last.steps[last.steps.index(user) :] if step.name in ("RUN", "COPY")]


def test_what_the_image_runs_is_what_the_deployment_says(deployment: Make, stages: list[Stage]) -> None:
    (entry,) = stages[-1].of("ENTRYPOINT")
    assert entry.words == deployment().command()
    (stop,) = stages[-1].of("STOPSIGNAL")
    assert stop.text == "SIGTERM"
    assert re.search(rf"GET', '{READY}'", stages[-1].of("HEALTHCHECK")[0].text)


def test_both_stages_build_on_the_base_that_was_asked_for(deployment: Make, tmp_path: Path) -> None:
    base = f"mirror.example/python@sha256:{'0' * 64}"
    docker.write(deployment(base=base), tmp_path)
    assert [stage.base for stage in read(tmp_path / "Containerfile")] == [base, base]


def test_nothing_is_installed_but_by_its_hash(context: Path, stages: list[Stage]) -> None:
    (install,) = [
        step for stage in stages for step in stage.of("RUN") if "install" in step.words and "pip" in step.words
    ]
    assert {"--require-hashes", "--only-binary", "--no-cache-dir"} <= set(install.words)
    lock = (context / "requirements.lock").read_text("utf-8")
    entries = [entry for entry in re.split(r"\n(?=\S)", lock.strip()) if entry]
    assert len(entries) > 20
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert all(re.match(r"[a-z0-9-]+==\S+|\./wheels/", entry) for entry in entries)


def test_the_lock_names_the_wheel_that_is_there(context: Path) -> None:
    (wheel,) = (context / "wheels").iterdir()
    expected = f"./wheels/{wheel.name} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    assert (context / "requirements.lock").read_text("utf-8").endswith(expected)


def test_what_is_copied_is_in_the_context_and_not_ignored(context: Path, stages: list[Stage]) -> None:
    ignored = (context / ".dockerignore").read_text("utf-8").split()
    assert ignored[0] == "*" and (context / ".containerignore").read_text("utf-8").split() == ignored
    allowed = {line.removeprefix("!") for line in ignored[1:]}
    copied = {step.words[0] for stage in stages for step in stage.of("COPY") if "from" not in step.options}
    assert copied == allowed
    assert all((context / name).exists() for name in copied)


def test_packages_are_copied_as_they_are_locked_and_may_be_read_by_anybody(context: Path) -> None:
    folder = context / "repository" / "tiny" / "1.0.0"
    verify_folder(folder, read_lock(folder))
    assert all(path.stat().st_mode & 0o004 for path in folder.rglob("*"))


def test_a_package_that_decides_has_one_more_place_to_write_to(deployment: Make, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    docker.write(deployment(), tmp_path / "plain")
    (tmp_path / "decides").mkdir()
    docker.write(deployment(decides=True), tmp_path / "decides")
    plain, decides = (read(tmp_path / name / "Containerfile")[-1] for name in ("plain", "decides"))
    assert not plain.of("RUN") and "ONWARD_STORE" not in plain.of("ENV")[0].text
    assert decides.of("RUN")[0].words[-1] == "/var/lib/onward"
    assert 'ONWARD_STORE="sqlite:////var/lib/onward/onward.db"' in decides.of("ENV")[0].text
    assert "sqlalchemy==" in (tmp_path / "decides" / "requirements.lock").read_text("utf-8")
    assert "sqlalchemy==" not in (tmp_path / "plain" / "requirements.lock").read_text("utf-8")


def test_the_script_runs_it_closed(context: Path) -> None:
    script = (context / "run.sh").read_text("utf-8")
    subprocess.run(["sh", "-n", str(context / "run.sh")], check=True)
    for option in ("--read-only", "--cap-drop ALL", "no-new-privileges", f"--user {UID}:{UID}", "127.0.0.1:8000:8000"):
        assert option in script


def test_a_base_without_a_digest_is_told(deployment: Make, tmp_path: Path) -> None:
    (tmp_path / "tag").mkdir()
    assert "pin it" in " ".join(docker.write(deployment(), tmp_path / "tag"))
    (tmp_path / "digest").mkdir()
    pinned = deployment(base=f"python@sha256:{'0' * 64}")
    assert "pin it" not in " ".join(docker.write(pinned, tmp_path / "digest"))


def test_the_same_deployment_gives_the_same_context(deployment: Make, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        folder.mkdir()
        docker.write(deployment(), folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_value_cannot_become_a_variable_or_another_instruction(deployment: Make, tmp_path: Path) -> None:
    made = deployment()
    odd = replace(made, packages=tuple(replace(one, version='1$HOME"\nUSER root') for one in made.packages))
    text = docker.containerfile(odd)
    assert "\nUSER root" not in text
    assert "1\\$HOME" in text
    assert json.dumps(made.command()) in text
