"""OUT is there whole or not at all, and what no target takes is refused before anything is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onward.errors import PackageError, UsageError
from onward.package.assembly import assemble
from onward.runners.cloud import export as module
from onward.runners.cloud.export import WRITERS, CloudOptions, describe, export
from onward.runners.cloud.measurement import estimate
from onward.runners.cloud.packages import collect
from onward.testing import tiny_package


def options(tiny: Path, out: Path, *targets: str, **more: Any) -> CloudOptions:
    return CloudOptions(source=str(tiny), out=out, targets=targets or tuple(WRITERS), **({"measure": False} | more))


def test_every_target_has_a_folder_and_notes_with_paths_that_exist(tiny: Path, tmp_path: Path) -> None:
    made = export(options(tiny, tmp_path / "out"))
    assert {path.name for path in made.out.iterdir()} == set(WRITERS) == set(made.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for notes in made.notes.values():
        assert not any("FOLDER" in note for note in notes)


def test_an_images_tag_is_another_one_when_anything_in_it_is(tiny: Path, tmp_path: Path) -> None:
    actions = tmp_path / "actions.toml"
    actions.write_text("format = 1\n")
    package = collect(str(tiny))
    other = (replace(package[0], digest="0" * 64),)
    extras = (replace(package[0], extras=("llm",)),)
    usual = options(tiny, tmp_path / "out")
    tags = [
        describe(chosen, packages, estimate(packages)).image
        for chosen, packages in (
            (usual, package), (usual, other), (usual, extras), (replace(usual, base="python:3"), package),
            (replace(usual, actions=actions), package),
        )
    ]  # fmt: skip
    assert len(set(tags)) == len(tags)
    assert describe(usual, package, estimate(package)).image == tags[0]


def test_a_long_name_of_a_package_still_makes_one_that_clusters_take(tmp_path: Path) -> None:
    name = "a_very_long_name-" + "x" * 30 + "-of_a_package"
    packages = collect(str(tiny_package(tmp_path / "package", name=name)))
    made = describe(options(tmp_path, tmp_path / "out"), packages, estimate(packages))
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", made.name)


def test_measured_figures_come_from_a_server_that_answered(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    sizing = export(options(tiny, tmp_path / "out", "kubernetes", measure=True), progress=said.append).deployment.sizing
    assert sizing.measured
    assert 50 << 20 < sizing.peak_bytes < 2 << 30
    assert 0 < sizing.start_s < 30
    assert sizing.answers_per_s["tiny"] > 50
    assert "asking tiny" in said


def test_without_measuring_memory_grows_with_the_packages(tiny: Path) -> None:
    (package,) = collect(str(tiny))
    assert not estimate((package,)).measured
    assert estimate((package, package)).peak_bytes - estimate((package,)).peak_bytes == 3 * package.size_bytes


def test_a_package_that_does_not_get_ready_is_told_with_the_servers_reason(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    manifest = folder / "onward.toml"
    manifest.write_text(manifest.read_text().replace('backend = "onnx"', 'backend = "onnx"\nproviders = ["cuda"]'))
    assemble(folder)
    with pytest.raises(PackageError, match="PROVIDER_MISSING"):
        export(options(folder, tmp_path / "out", "kserve", measure=True))
    assert not (tmp_path / "out").exists()


def test_what_fails_in_the_middle_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> tuple[str, ...]:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(module.WRITERS, "systemd", fails)
    with pytest.raises(OSError, match="No space"):
        export(options(tiny, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_what_exists_is_replaced_only_when_told_to(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(options(tiny, out, "docker"))
    with pytest.raises(UsageError, match="it exists"):
        export(options(tiny, out, "kserve"))
    export(options(tiny, out, "kserve", force=True))
    assert [path.name for path in out.iterdir()] == ["kserve"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_onward_did_not_write_is_never_replaced(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "docker").mkdir(parents=True)
    (out / "mine").write_text("keep")
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "file").write_text("keep")
    for place in (out, tmp_path / "link", tmp_path / "file"):
        with pytest.raises(UsageError, match="something else"):
            export(options(tiny, place, "kserve", force=True))
    assert (out / "mine").read_text() == (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": ("helm",)}, {"targets": ()}, {"name": "Onward"}, {"name": "a\nb"}, {"name": "x" * 41},
        {"name": "1x"},
        {"namespace": "default; rm"}, {"image": "a b"}, {"image": "x\nUSER root"}, {"base": "$(id)"},
        {"storage_uri": "/etc"}, {"targets": ("ray",), "storage_uri": "s3://models/tiny"}, {"min_replicas": 11},
        {"targets": ("systemd",), "min_replicas": 100, "max_replicas": 100},
    ],
)  # fmt: skip
def test_what_no_target_takes_is_refused_first(tiny: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    targets = wrong.pop("targets", ("kserve",))
    with pytest.raises(UsageError):
        export(CloudOptions(source=str(tiny), out=tmp_path / "out", targets=targets, measure=False, **wrong))
    assert not (tmp_path / "out").exists()


def test_actions_are_for_packages_that_decide_and_their_secrets_are_named_not_read(tiny: Path, tmp_path: Path) -> None:
    actions = tmp_path / "actions.toml"
    actions.write_text(
        'format = 1\n[[target]]\naction = "hold"\npackages = ["tiny"]\nkind = "webhook"\n'
        'url = "https://holds.example/"\nsecret_env = "HOLDS_SECRET"\nheaders_env = { Authorization = "TOKEN" }\n'
    )
    assert module.secrets_of(actions) == ("HOLDS_SECRET", "TOKEN")
    with pytest.raises(UsageError, match="none of these packages decides"):
        export(options(tiny, tmp_path / "out", actions=actions))


def test_a_person_reads_figures_and_a_program_json(
    tiny: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from onward.runners.cloud.summary import show

    made = export(options(tiny, tmp_path / "out", "docker"))
    show(made, as_json=True)
    report = json.loads(capfdbinary.readouterr().out)
    assert report["packages"][0]["name"] == "tiny" and report["targets"] == ["docker"]
    assert report["image"].startswith("onward-tiny:1.0.0-")
    assert report["sizing"]["measured"] is False
