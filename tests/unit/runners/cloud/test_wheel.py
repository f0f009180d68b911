"""The wheel that an image installs is the Onward that wrote it, as pip and zip see it."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import onward
from onward.runners.cloud.wheel import write_wheel


def test_pip_installs_it_and_it_is_this_onward(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    source = Path(onward.__file__).parent
    here = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    there = {path.relative_to(tmp_path / "site" / "onward") for path in (tmp_path / "site" / "onward").rglob("*.*")}
    assert {path for path in there if path.suffix != ".pyc"} >= {path for path in here if path.suffix}
    asked = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path = [{str(tmp_path / 'site')!r}] + sys.path; "
             "import onward; print(onward.__file__, onward.__version__)"]  # fmt: skip
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    assert told == [str(tmp_path / "site" / "onward" / "__init__.py"), onward.__version__]


def test_its_record_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_wheel(tmp_path)) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        rows = [line.split(",") for line in archive.read(record).decode().splitlines()]
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                told = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={told}", len(content))


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert write_wheel(tmp_path).read_bytes() == write_wheel(tmp_path / "other").read_bytes()
