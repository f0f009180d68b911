"""What a service manager hands over is taken if it is one listening socket, and it is told what it asked to hear."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from onward.errors import UsageError
from onward.runners.serve.activation import inherited_socket, notify
from onward.runners.serve.server import ServeOptions, _check_host

TAKE = """
import os
from onward.runners.serve.activation import inherited_socket
os.environ["LISTEN_PID"] = {pid}
try:
    handed = inherited_socket()
except Exception as error:
    print(type(error).__name__, error)
else:
    print(handed and handed.getsockname()[1], handed and os.get_inheritable(3), "LISTEN_FDS" in os.environ)
"""
OWN = "str(os.getpid())"


def taken(fd: int, *, count: str = "1", pid: str = OWN) -> str:
    """What a process says that is started with `fd` as its file 3."""

    def as_three() -> None:
        os.dup2(fd, 3)

    done = subprocess.run(
        [sys.executable, "-c", TAKE.format(pid=pid)], env=os.environ | {"LISTEN_FDS": count}, preexec_fn=as_three,
        pass_fds=(3,), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_listening_socket_is_taken_and_kept_from_children(listener: socket.socket) -> None:
    assert taken(listener.fileno()) == f"{listener.getsockname()[1]} False False"


def test_what_was_meant_for_another_process_is_left_alone(listener: socket.socket) -> None:
    assert taken(listener.fileno(), pid="'1'") == "None None False"


def test_no_socket_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "0")
    assert inherited_socket() is None


def test_several_sockets_are_refused_rather_than_all_but_one_left_unanswered(listener: socket.socket) -> None:
    assert taken(listener.fileno(), count="2").startswith("UsageError LISTEN_FDS: several sockets")


@pytest.mark.parametrize("opened", [socket.socket, partial(open, "/dev/null")])
def test_what_does_not_listen_is_refused(opened: Callable[[], socket.socket]) -> None:
    with opened() as other:
        assert taken(other.fileno()).startswith("UsageError LISTEN_FDS: not a socket to serve on")


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@onward-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "relative"])
def test_a_manager_that_is_not_there_is_not_missed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")


@pytest.mark.parametrize("address", [("0.0.0.0", 8000), ("::", 8000, 0, 0), ("10.1.2.3", 80), "example.org"])
def test_a_socket_open_to_a_network_needs_insecure_whoever_opened_it(address: str | tuple[str, int]) -> None:
    with pytest.raises(UsageError, match="--insecure"):
        _check_host(ServeOptions(repository=Path()), address)
    _check_host(ServeOptions(repository=Path(), insecure=True), address)


@pytest.mark.parametrize("address", [("127.0.0.1", 8000), ("::1", 8000, 0, 0), "localhost", "/run/onward.sock"])
def test_a_socket_of_this_machine_does_not(address: str | tuple[str, int]) -> None:
    _check_host(ServeOptions(repository=Path()), address)
