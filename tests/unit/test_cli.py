"""The command line: what every mistake exits with, and that none of them shows a traceback."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onward
from onward import cli
from onward.testing import scale_graph, tiny_package
from tests.unit.package.importers.test_encoder import embeddings, texts
from tests.unit.package.importers.test_encoder import write_folder as write_encoder
from tests.unit.package.importers.test_vision import photo, torch_names, write_labels, write_weights

__all__ = ["torch_names"]  # a fixture

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, a repository, an ONNX file and things that are none of these."""
    root = tmp_path_factory.mktemp("cli")
    tiny_package(root / "var" / "repository" / "tiny" / "1.0.0")
    tiny_package(root / "unpacked", lock=False)
    changed = tiny_package(root / "changed")
    (changed / "model.onnx").write_bytes(scale_graph(scale=3.0, offset=1.0, features=3))
    (root / "model.onnx").write_bytes(scale_graph(scale=2.0, offset=1.0, features=3))
    (root / "broken.onnx").write_bytes(b"not a graph")
    (root / "broken.pth").write_bytes(b"not a state dict")
    (root / "encoder").mkdir()
    (root / "encoder" / "config.json").write_text('{"model_type": "gpt2"}')
    (root / "file.txt").write_text("text")
    (root / "stray.toml").write_text("format = 1")
    (root / "rows.jsonl").write_text('{"x": [1, 2, 3]}\n\n{"x": [0, 0, 0]}\n')
    (root / "deep.json").write_text("[" * 100_000)
    return root


def call(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process: exit code, standard output, standard error."""
    before = sys.argv, Path.cwd()
    sys.argv = ["onward", *arguments]
    os.chdir(folder)
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
            sys.exit(0)
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
    out, err = capfd.readouterr()
    return int(left.value.code or 0), out, err


MISTAKES = [
    ([], 64, "Missing command|Usage"),
    (["frobnicate"], 64, "No such command 'frobnicate'"),
    (["serve"], 64, "Missing argument 'REPOSITORY'"),
    (["serve", "nowhere"], 64, "does not exist"),
    (["serve", "var/repository", "--port", "99999"], 64, "--port"),
    (["serve", "var/repository", "--port", "x"], 64, "--port"),
    (["serve", "var/repository", "--port", "8123", "--admin-port", "8123"], 64, "a port each"),
    (["serve", "var/repository", "--keep-versions", "0"], 64, "--keep-versions"),
    (["serve", "var/repository", "--watch-interval", "-1"], 64, "--watch-interval"),
    (["serve", "var/repository", "--host", "0.0.0.0"], 64, "--insecure"),
    (["serve", "file.txt"], 65, "INVALID_PACKAGE"),
    (["run", "tiny"], 64, "Missing argument 'INPUT...'"),
    (["run", "tiny", "[1,2,3]", "--nonsense"], 64, "No such option"),
    (["run", "nowhere", "1"], 66, "MODEL_NOT_FOUND"),
    (["run", "tiny==9.9", "1"], 66, "MODEL_NOT_FOUND"),
    (["run", "file.txt", "1"], 66, "NOT_FOUND"),
    (["run", "unpacked", "1"], 65, "not packed yet.*INVALID_PACKAGE"),
    (["run", "changed", "1"], 65, "DIGEST_MISMATCH"),
    (["run", "tiny", "text"], 65, "does not take bare text.*INVALID_INPUT"),
    (["run", "tiny", "{"], 65, "MALFORMED_BODY"),
    (["run", "tiny", "deep.json"], 65, "MALFORMED_BODY"),
    (["run", "tiny", "file.txt"], 65, "INVALID_INPUT"),
    (["run", "tiny", '{"y": 1}'], 65, "UNKNOWN_INPUT"),
    (["run", "tiny", "{}"], 65, "MISSING_INPUT"),
    (["run", "tiny", "[1, 2]"], 65, "WRONG_SHAPE"),
    (["run", "tiny", '{"x": ["a", "b", "c"]}'], 65, "WRONG_DATATYPE"),
    (["run", "tiny", "[1, 2, 3]", "--outputs", "z"], 65, "UNKNOWN_OUTPUT"),
    (["inspect"], 64, "Missing argument 'PACKAGE'"),
    (["inspect", "nowhere"], 66, "MODEL_NOT_FOUND"),
    (["inspect", "x" * 5000], 74, "File name too long"),
    (["verify", "changed"], 65, "DIGEST_MISMATCH"),
    (["pack", "nowhere.onnx", "out"], 64, "does not exist"),
    (["pack", "file.txt", "out"], 64, "cannot pack this kind of file.*USAGE"),
    (["pack", "model.onnx", "changed"], 64, "something already.*USAGE"),
    (["pack", "model.onnx", "out", "--name", "../x"], 64, "not a package name"),
    (["pack", "model.onnx", "out", "--version", "new"], 64, "not a version"),
    (["pack", "model.onnx", "out", "--tolerance", "-1"], 64, "--tolerance"),
    (["pack", "broken.onnx", "out"], 65, r"\[[A-Z_]+\]"),
    (["pack", "model.onnx", "out", "--reference", "nowhere.npz"], 64, "--reference"),
    (["pack", "model.onnx", "out", "--reference", "file.txt"], 64, "takes no reference.*USAGE"),
    (["pack", "model.onnx", "out", "--labels", "file.txt"], 64, "takes no labels.*USAGE"),
    (["pack", "encoder", "out"], 65, "UNSUPPORTED_MODEL"),
    (["pack", "broken.pth", "out"], 65, "REFUSED_TORCH_FILE"),
    (["chat"], 64, "Missing argument 'PACKAGE'"),
    (["audit"], 64, "Missing command|Usage"),
    (["audit", "frobnicate"], 64, "No such command"),
    (["audit", "verify"], 66, "no store yet.*NOT_FOUND"),
    (["audit", "verify", "--store", "mysql://x"], 64, "USAGE"),
    (["audit", "verify", "nowhere.jsonl"], 64, "does not exist"),
    (["audit", "verify", "file.txt"], 65, "file.txt:1.*AUDIT_BROKEN"),
    (["audit", "verify", "rows.jsonl", "--anchor", "file.txt"], 65, "file.txt:1.*UNREADABLE_ENTRY"),
    (["audit", "tail", "-n", "-1"], 64, "--lines|-n"),
    (["audit", "export", "nowhere/log.jsonl"], 66, "no store yet"),
    (["decide", "replay", "file.txt"], 65, "file.txt:1.*UNREADABLE_ENTRY"),
    (["decide", "replay", "--policy", "nowhere.toml"], 64, "does not exist"),
    (["decide", "test", "tiny"], 66, "no policy.*NOT_FOUND"),
    (["decide", "test", "nowhere"], 66, "MODEL_NOT_FOUND"),
    (["decide", "test", "stray.toml"], 66, "read against its package"),
    (["actions", "list"], 66, "no store yet"),
    (["actions", "list", "--state", "lost"], 64, "--state"),
    (["actions", "reconcile", "a"], 64, "--happened or --did-not-happen"),
    (["approvals", "approve"], 64, "Missing argument 'APPROVAL_ID'"),
    (["approvals", "list", "--key-file", "nowhere"], 66, "no store yet"),
    (["kill-switch", "status"], 66, "no store yet"),
    (["relay"], 64, "--actions"),
    (["relay", "--actions", "file.txt"], 65, "INVALID_TARGETS"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda value: " ".join(value)[:60]
                         if isinstance(value, list) else None)  # fmt: skip
def test_a_mistake_exits_with_its_code_and_says_what_is_wrong(
    arguments: list[str], code: int, message: str, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    exit_code, out, err = call(capfd, workplace, *arguments)
    assert exit_code == code, err
    assert re.search(message, err), err
    assert "Traceback" not in err + out
    assert len(err.splitlines()) <= 2 or "Usage:" in err
    assert not list(workplace.glob("out*"))


@pytest.mark.parametrize("group", ["actions", "approvals", "audit", "decide", "kill-switch", "profiles"])
def test_a_group_without_a_command_shows_its_commands_and_no_error(
    capfd: pytest.CaptureFixture[str], workplace: Path, group: str
) -> None:
    code, out, err = call(capfd, workplace, group)
    assert (code, out) == (64, "") and err.startswith(f"Usage: onward {group}") and "Commands:" in err


COMMANDS = (
    "serve",
    "run",
    "inspect",
    "verify",
    "pack",
    "audit",
    "actions",
    "approvals",
    "decide",
    "kill-switch",
    "relay",
    "list",
    "tail",
    "export",
    "replay",
    "test",
    "show",
    "status",
    "--store",
    "--actions",
    "--json",
    "--help",
    "--name",
    "--outputs",
    "--port",
    "--version",
)
words = st.sampled_from(
    [*COMMANDS, "memory:", "tiny", "file.txt", "model.onnx", "out", "{}", "[1,2,3]", "-", "unpacked", "--"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8), max_size=5))
def test_no_arguments_ever_show_a_traceback(
    workplace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    if arguments[:1] == ["serve"]:
        arguments = [*arguments, "--port", "0"]  # a server that starts would not end
    target = workplace / "fuzz"
    target.mkdir(exist_ok=True)
    with (workplace / "file.txt").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, err = call(capfd, target, *arguments)
    assert code in (0, 64, 65, 66, 69, 74), (arguments, err)
    assert "Traceback" not in out + err
    assert "INTERNAL" not in err


def test_run_prints_one_json_line_an_input(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capfd, workplace, "run", "tiny", "[1,2,3]", "rows.jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [line["answer"]["y"] for line in lines] == [[3.0, 5.0, 7.0], [3.0, 5.0, 7.0], [1.0, 1.0, 1.0]]
    assert [line["input"] for line in lines] == ["[1,2,3]", "rows.jsonl:1", "rows.jsonl:3"]
    assert {(line["package"], line["version"]) for line in lines} == {("tiny", "1.0.0")}


def test_inspect_and_verify_print_json_into_a_pipe(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    described = json.loads(call(capfd, workplace, "inspect", "tiny")[1])
    assert [field["name"] for field in described["inputs"]] == ["x"]
    assert described["tensors"]["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    verified = json.loads(call(capfd, workplace, "verify", "tiny")[1])
    assert (verified["examples"], verified["digest"]) == (1, described["package"]["digest"])


def test_a_packed_model_answers(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capfd, workplace, "pack", "model.onnx", "packed", "--name", "double", "--version", "2.0")
    assert (code, json.loads(out)["name"]) == (0, "double"), err
    assert json.loads(out)["compared"] is True
    code, out, _ = call(capfd, workplace, "run", "packed", '{"x": [1, 2, 3]}')
    assert json.loads(out)["answer"] == {"y": [3.0, 5.0, 7.0]}


def test_an_encoder_is_packed_from_its_folder_and_the_output_says_whether_it_was_compared(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_encoder(tmp_path / "encoder")
    np.savez(tmp_path / "right.npz", texts=np.array(texts()), embeddings=embeddings(texts()))
    np.savez(tmp_path / "wrong.npz", texts=np.array(texts()), embeddings=embeddings(texts())[::-1])
    code, out, err = call(capfd, tmp_path, "pack", "encoder", "bare", "--name", "mine", "--version", "1.2")
    assert (code, json.loads(out)["compared"], json.loads(out)["name"]) == (0, False, "mine"), err
    code, out, err = call(capfd, tmp_path, "pack", "encoder", "held", "--reference", "right.npz")
    assert (code, json.loads(out)["compared"], json.loads(out)["rows"]) == (0, True, 64), err
    code, _, err = call(capfd, tmp_path, "pack", "encoder", "refused", "--reference", "wrong.npz")
    assert (code, (tmp_path / "refused").exists()) == (65, False)
    assert "[PARITY]" in err
    code, out, _ = call(capfd, tmp_path, "run", "held", "the cat sat")
    assert (code, len(json.loads(out)["answer"]["embedding"])) == (0, 16)


def test_weights_are_packed_with_their_labels(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], torch_names: None
) -> None:
    write_weights(tmp_path / "net.pth")
    write_labels(tmp_path / "names.txt")
    (tmp_path / "photo.png").write_bytes(photo())
    code, out, err = call(capfd, tmp_path, "pack", "net.pth", "packed", "--labels", "names.txt")
    assert (code, json.loads(out)["compared"]) == (0, False), err
    code, out, err = call(capfd, tmp_path, "run", "packed", "photo.png")
    assert (code, json.loads(out)["answer"]["label"][:6]) == (0, "thing "), err


def test_a_fault_of_ours_is_one_line_too(
    workplace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("onward.runners.local.inspect", broken)
    code, _, err = call(capfd, workplace, "inspect", "tiny")
    assert (code, len(err.splitlines())) == (70, 1)
    assert "ZeroDivisionError: oops" in err
    assert "[INTERNAL]" in err


def test_a_reader_that_leaves_early_ends_the_command_silently(workplace: Path) -> None:
    rows = workplace / "many.jsonl"
    rows.write_text('{"x": [1, 2, 3]}\n' * 5000)
    command = f"{sys.executable} -m onward run tiny many.jsonl | head -1"
    made = subprocess.run(["bash", "-c", command], cwd=workplace, capture_output=True, text=True)
    assert (made.returncode, made.stderr, made.stdout.count("\n")) == (0, "", 1)


def test_a_port_that_is_taken_exits_with_unavailable(workplace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        admin_port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "onward", "serve", "var/repository", "--admin-port", str(admin_port)]
        command += ["--port", str(taken.getsockname()[1])]
        made = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=30)
    assert made.returncode == 69
    assert "address already in use" in made.stderr
    assert "Traceback" not in made.stderr


def test_the_module_is_the_command() -> None:
    made = subprocess.run([sys.executable, "-m", "onward", "--version"], capture_output=True, text=True, check=True)
    assert onward.__version__ in made.stdout


def every_command(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Each command with its full name, groups before what is in them."""
    for name, command in group.commands.items():
        yield " ".join((*names, name)), command
        if isinstance(command, click.Group):
            yield from every_command(command, *names, name)


def test_the_reference_names_every_command_argument_and_option_and_no_other() -> None:
    text = PAGE.read_text("utf-8")
    commands = dict(every_command(cli.cli))
    assert re.findall(r"^###? `onward ([\w -]+)`", text, re.M) == list(commands)
    for name, command in commands.items():
        section = re.split(r"^###? ", text.split(f"# `onward {name}`\n")[1], flags=re.M)[0]
        options = {
            option
            for each in command.params
            if isinstance(each, click.Option)
            for option in (*each.opts, *each.secondary_opts)
            if option.startswith("--")
        }
        assert set(re.findall(r"^\| `(--[\w-]+)", section, re.M)) == options, name
        for each in command.params:
            if isinstance(each, click.Argument):
                assert str(each.metavar or (each.name or "").upper()).rstrip(".") in section
            elif isinstance(each, click.Option) and each.show_default:
                assert re.search(rf"^\| `{each.opts[0]}.*\| `{re.escape(str(each.default))}` \|", section, re.M), (
                    each.name
                )


@pytest.mark.parametrize("module", ["sqlalchemy", "cryptography", "cel_expr_python", "httpcore"])
@pytest.mark.parametrize(
    "command", ["audit verify", "actions list", "kill-switch on", "decide replay", "relay --actions actions.toml"]
)
def test_without_a_part_of_the_extra_decide_a_command_works_or_says_what_to_install(
    module: str, command: str, tmp_path: Path
) -> None:
    (tmp_path / "var" / "repository").mkdir(parents=True)
    sqlite3.connect(tmp_path / "var" / "onward.db").close()
    (tmp_path / "actions.toml").write_text("nonsense")
    code = f"import sys; sys.modules[{module!r}] = None; from onward.cli import main; main()"
    made = subprocess.run([sys.executable, "-c", code, *command.split()], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode in (0, 65, 66, 69), made.stderr
    assert len(made.stderr.splitlines()) <= 1
    if made.returncode == 69:
        assert f"{module}" in made.stderr
        assert "pip install 'onward[decide]'" in made.stderr
    else:
        assert module != "sqlalchemy" or command.startswith("relay")
