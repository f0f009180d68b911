"""What is said of a finished job: lines for a person, an object for a program; no password in either."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onward.runners.batch.summary import show
from tests.unit.runners.batch.jobs import score, some_rows, write


def test_a_person_reads_counts_speed_and_digest(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*some_rows(3), {"id": 3, "x": "words"}]
    report = score(package, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    show(report, as_json=False)
    told = capsys.readouterr().out
    assert "done: 3 answers to 4 rows, 1 rejects" in told.replace("\n", " ") and report["output"]["sha256"] in told
    show(dict(report) | {"repeated": True}, as_json=False)
    assert "was done already" in capsys.readouterr().out


def test_a_program_reads_an_object(package: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(5))
    command = [
        sys.executable,
        "-m",
        "onward",
        "batch",
        str(package),
        str(source),
        str(tmp_path / "out.csv"),
        "--keep",
        "id",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(made.stdout)
    assert found["answers"] == 5 and "job" not in found and made.stderr == ""
    written = json.loads((tmp_path / "out.csv_run.json").read_text())
    assert written["job"]["options"]["keep"] == ["id"]
    for name in ("package", "input", "output", "rows", "rejects", "shards", "plan", "elapsed_s", "rows_per_s"):
        assert name in written
    assert set(written["job"]["versions"]) == {"onward", "onnxruntime", "pyarrow", "numpy", "python"}


def test_a_password_is_in_nothing_that_a_command_leaves_or_says(
    package: Path, tmp_path: Path, postgres_url: str
) -> None:
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        connection.execute("create table raw (id int primary key, x text)")
        connection.execute("insert into raw select g, '[1,2,3]' from generate_series(1, 50) g")
    url = postgres_url.replace("postgres:@", "postgres:verysecret@")
    assert "verysecret" in url
    said = ""
    for source, output in (("raw", "scores"), ("raw", "scores"), ("none", "scores"), ("raw", "raw")):
        command = [
            sys.executable,
            "-m",
            "onward",
            "batch",
            str(package),
            f"{url}&table={source}",
            f"{url}&table={output}",
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
        said += made.stdout + made.stderr
    assert '"answers":50' in said and '"repeated":true' in said and "NOT_FOUND" in said and "USAGE" in said
    left = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert left and "verysecret" not in said and not any(b"verysecret" in content for content in left)
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("select count(*) from scores").fetchone() == (50,)
