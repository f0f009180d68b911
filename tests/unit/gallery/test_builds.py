"""What a package is made from decides whether it is built anew."""

from __future__ import annotations

import pytest

from gallery.builds import NAMES, ROOT, source_files


@pytest.mark.parametrize("name", NAMES)
def test_a_package_depends_on_what_its_build_runs_and_not_on_the_server(name: str) -> None:
    files = {file.relative_to(ROOT).as_posix() for file in source_files(name)}
    folder = name.replace("-", "_")
    assert {
        f"gallery/{folder}/build.py", f"gallery/{folder}/onward.toml", "gallery/fetch.py", "gallery/sources.toml",
        "gallery/reference/inputs.py", "requirements/pack.lock", "src/onward/pipeline.py", "src/onward/types.py",
        "src/onward/execute/onnx.py", "src/onward/prepare/steps.py", "src/onward/generate/answer.py",
        "src/onward/package/assembly.py", "src/onward/package/importers/graph.py",
    } <= files  # fmt: skip
    assert not any(file.startswith("src/onward/runners/") or "__pycache__" in file for file in files)
    assert not files & {"src/onward/cli.py", "src/onward/execute/scheduler.py", "src/onward/telemetry.py"}


def test_a_package_depends_on_the_folders_that_its_build_borrows_from() -> None:
    assert ROOT / "gallery" / "intent" / "build.py" in source_files("embed")
    assert ROOT / "gallery" / "vision" / "photos.py" in source_files("moderation")
    assert ROOT / "gallery" / "vision" / "photos.py" not in source_files("fraud")
