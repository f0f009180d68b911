"""The units are ones that systemd takes, close the server in, and leave nobody refused while it is replaced."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from onward.runners.cloud import systemd
from onward.runners.cloud.deployment import Deployment
from tests.unit.runners.cloud.conftest import Make

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this machine")


def unit(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def installed(deployment: Deployment, folder: Path) -> Path:
    """The units, with a program where they say that there is one."""
    systemd.write(deployment, folder)
    program = Path(systemd.command(deployment)[0])
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return folder


@needs_systemd
@pytest.mark.parametrize("decides", [False, True])
def test_systemd_takes_the_units(deployment: Make, tmp_path: Path, decides: bool) -> None:
    made = deployment(prefix=tmp_path / "opt", decides=decides)
    (tmp_path / "units").mkdir()
    folder = installed(made, tmp_path / "units")
    units = [str(folder / f"onward-tiny@{kind}") for kind in ("01.service", "01.socket")]
    for name in units:
        shutil.copy(name.replace("01", ""), name)
    done = subprocess.run([str(ANALYZE), "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_little_that_the_server_could_do_to_the_machine(deployment: Make, tmp_path: Path) -> None:
    made = deployment(prefix=tmp_path / "opt")
    (tmp_path / "units").mkdir()
    folder = installed(made, tmp_path / "units")
    command = [str(ANALYZE), "security", "--offline=yes", "--threshold=20", str(folder / "onward-tiny@.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:]  # 2.0 of 10: "OK"


def test_every_replica_has_its_own_socket_on_the_one_port_and_its_own_admin_port(deployment: Make) -> None:
    made = deployment()
    sockets = unit(systemd._socket(made))["Socket"]
    assert sockets["ListenStream"] == "0.0.0.0:8000"
    assert sockets["ReusePort"] == "yes"
    command = unit(systemd.service(made))["Service"]["ExecStart"].split()
    assert command[command.index("--admin-port") + 1] == "90%i"
    assert unit(systemd.service(made))["Unit"]["Requires"] == "onward-tiny@%i.socket"


def test_a_replica_has_the_time_to_drain_and_says_when_it_is_ready(deployment: Make) -> None:
    made = deployment()
    service = unit(systemd.service(made))["Service"]
    assert service["Type"] == "notify"
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    assert int(service["TimeoutStopSec"]) == made.stop_s
    assert int(service["TimeoutStartSec"]) == made.start_limit_s


def test_devices_are_hidden_unless_a_package_wants_one(deployment: Make) -> None:
    assert unit(systemd.service(deployment()))["Service"]["PrivateDevices"] == "yes"
    assert unit(systemd.service(deployment(providers=("cuda", "cpu"))))["Service"]["PrivateDevices"] == "no"


@pytest.mark.parametrize(
    ("word", "line"),
    [("plain/90%i", "plain/90%i"), ("100%", "100%%"), ("a b", '"a b"'), ('"$x"', '"\\"$$x\\""'), ("é;", '"é;"')],
)
def test_words_are_read_back_as_they_were(word: str, line: str) -> None:
    assert systemd._word(word) == line


def test_replicas_are_replaced_one_by_one_and_the_first_that_fails_is_the_last(
    deployment: Make, tmp_path: Path
) -> None:
    made = deployment(min_replicas=3)
    folder = tmp_path / "units"
    folder.mkdir()
    systemd.write(made, folder)
    (tmp_path / "bin").mkdir()
    manager = tmp_path / "bin" / "systemctl"
    manager.write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n[ "$2" != onward-tiny@02.service ]\n')
    manager.chmod(0o755)
    path = f"{manager.parent}:{os.environ['PATH']}"
    done = subprocess.run([str(folder / "rolling-restart.sh")], env=os.environ | {"PATH": path})
    assert done.returncode != 0
    assert (tmp_path / "asked").read_text().split("\n")[:-1] == [
        "restart onward-tiny@01.service", "restart onward-tiny@02.service",
    ]  # fmt: skip


def test_scripts_are_ones_that_a_shell_can_read(deployment: Make, tmp_path: Path) -> None:
    systemd.write(deployment(), tmp_path)
    for name in ("install.sh", "rolling-restart.sh"):
        subprocess.run(["sh", "-n", str(tmp_path / name)], check=True)
        assert os.access(tmp_path / name, os.X_OK)
