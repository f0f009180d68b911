"""What is checked of a package's stages when it is packed, and what its lock keeps of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from onward.errors import DigestMismatch, ManifestError, NotSigned, PackageError
from onward.package.archive import write_archive
from onward.package.digest import read_lock
from onward.package.manifest import dump_manifest, load_manifest, parse_manifest
from onward.package.package import open_package
from onward.package.stages import fields_of, locate
from onward.package.trust import TRUST_VARIABLE, sign_folder
from onward.testing import tiny_package
from tests.keys import key_pair
from tests.packages import CHAIN, chain_package, staged_packages


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    tiny_package(tmp_path / "double" / "1.0.0", name="double", scale=2.0, offset=0.0)
    tiny_package(tmp_path / "plus" / "1.0.0", name="plus", scale=1.0, offset=10.0)
    return tmp_path


def refused(repository: Path, old: str, new: str) -> str:
    assert old in CHAIN
    with pytest.raises(PackageError) as found:
        chain_package(repository, CHAIN.replace(old, new))
    assert not (repository / "chain" / "1.0.0" / "onward.lock").exists()
    return str(found.value)


def test_the_lock_pins_every_stage_and_the_package_digest_covers_the_pins(tmp_path: Path) -> None:
    folder = staged_packages(tmp_path)
    lock = read_lock(folder)
    digests = {name: read_lock(tmp_path / name / "1.0.0").digest for name in ("double", "plus")}
    assert lock.stages == {f"{name}==1.0.0": digest for name, digest in digests.items()}
    file = folder / "onward.lock"
    file.write_text(file.read_text().replace(digests["plus"], digests["double"]))
    with pytest.raises(DigestMismatch):
        open_package(folder)


def test_another_stage_makes_another_package_digest(tmp_path: Path) -> None:
    one = read_lock(staged_packages(tmp_path / "a")).digest
    (tmp_path / "b").mkdir()
    tiny_package(tmp_path / "b" / "double" / "1.0.0", name="double", scale=2.0, offset=0.0)
    tiny_package(tmp_path / "b" / "plus" / "1.0.0", name="plus", scale=1.0, offset=11.0)
    text = CHAIN
    folder = tmp_path / "b" / "chain" / "1.0.0"
    shutil.copytree(tmp_path / "a" / "chain" / "1.0.0", folder)
    shutil.rmtree(folder)
    assert read_lock(chain_package(tmp_path / "b", text)).digest != one


def test_a_manifest_of_stages_is_written_as_it_was_read() -> None:
    manifest = parse_manifest(CHAIN)
    assert parse_manifest(dump_manifest(manifest)) == manifest
    assert manifest.answer["y"] == ("far.y", "double.y") and manifest.stages[1].values == ("long",)


def test_a_stage_that_is_not_there_is_named(repository: Path) -> None:
    said = refused(repository, 'package = "plus"\nversion = "1.0.0"', 'package = "plus"\nversion = "2.0.0"')
    assert 'stage "far"' in said and "plus 2.0.0" in said


def test_a_damaged_stage_is_named(repository: Path) -> None:
    (repository / "plus" / "1.0.0" / "model.onnx").write_bytes(b"other")
    assert 'stage "far"' in refused(repository, "[answer]", "[answer]")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('inputs = { x = "double.y" }', 'inputs = { z = "double.y" }', "plus has no such input"),
        ('inputs = { x = "double.y" }', "inputs = { }", 'plus needs its input "x"'),
        ('inputs = { x = "double.y" }', 'inputs = { x = "double.z" }', 'stage "double" has no such output'),
        ('inputs = { x = "double.y" }', 'inputs = { x = "way" }', '"way" is of another type'),
        ('values = ["long"]', "values = [1]", "cannot be the source's"),
        ('doubled = "double.y"', 'doubled = "way"', '"way" is of another type'),
    ],
)
def test_what_does_not_fit_by_the_signatures_is_refused_with_its_line(
    repository: Path, old: str, new: str, said: str
) -> None:
    message = refused(repository, old, new)
    assert said in message and "onward.toml:" in message


def test_a_stage_cannot_depend_on_what_is_not_one_value(repository: Path) -> None:
    way = CHAIN[CHAIN.index('[[input]]\nname = "way"') : CHAIN.index("[[output]]")]
    with pytest.raises(ManifestError, match="cannot be compared"):
        chain_package(repository, CHAIN.replace(way, "").replace('when = "way"', 'when = "double.y"'))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('when = "way"\n', "", "the source that has to have"),
        ('x = "double.y"', 'x = "far.y"', "no such source"),
        ('name = "far"', 'name = "double"', "not a name for a stage"),
        ('package = "plus"', 'package = "chain"', "cannot be a stage of itself"),
        ('doubled = "double.y"', "", "nothing says where it comes from"),
        ('y = ["far.y", "double.y"]', "y = 3", "wrong type"),
        ("[answer]", '[execute]\nfile = "model.onnx"\n[answer]', "only for a package with a model"),
        ('when = "way"\nvalues = ["long"]', "", "no stage takes this input"),
    ],
)
def test_stages_that_contradict_themselves_are_refused(old: str, new: str, said: str) -> None:
    assert old in CHAIN
    with pytest.raises(ManifestError, match=r"onward\.toml") as found:
        parse_manifest(CHAIN.replace(old, new))
    assert said in str(found.value)


def test_an_input_that_is_needed_cannot_come_from_a_stage_that_may_not_run(repository: Path) -> None:
    last = '[[stage]]\nname = "last"\npackage = "plus"\nversion = "1.0.0"\ninputs = { x = "far.y" }\n[answer]'
    assert "may be missing when it is needed" in refused(repository, "[answer]", last)
    either = last.replace('"far.y"', '["far.y", "double.y"]')
    shutil.rmtree(repository / "chain")
    assert chain_package(repository, CHAIN.replace("[answer]", either)).is_dir()


def test_a_stage_may_take_what_is_there_wherever_its_condition_holds(repository: Path) -> None:
    last = '[[stage]]\nname = "last"\npackage = "plus"\nversion = "1.0.0"\ninputs = { x = "far.y" }\n'
    same, looking = 'when = "way"\nvalues = ["long"]\n[answer]', 'when = "far.y"\n[answer]'
    for condition in (same, looking):
        assert chain_package(repository, CHAIN.replace("[answer]", last + condition)).is_dir()
        shutil.rmtree(repository / "chain")
    other = CHAIN.replace("[answer]", last + 'when = "way"\nvalues = ["longer"]\n[answer]')
    with pytest.raises(ManifestError, match="may be missing when it is needed"):
        chain_package(repository, other)


def test_a_package_that_talks_takes_a_conversation_and_gives_a_reply(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny")
    plain = fields_of(load_manifest(folder), folder)
    assert set(plain.outputs) == {"y"} and not plain.talks and not plain.decides
    for name in ("policy.toml", "dialogue.toml"):
        (folder / name).write_text("")
    talking = fields_of(load_manifest(folder), folder)
    assert {"reply", "outcome", "conversation", "decision_id"} <= set(talking.outputs)
    assert not talking.inputs["conversation"].required


def test_an_archive_of_a_package_of_stages_keeps_its_pins(tmp_path: Path) -> None:
    folder = staged_packages(tmp_path)
    archive = write_archive(folder, tmp_path / "chain.onward")
    assert read_lock(open_package(archive).folder).stages == read_lock(folder).stages


def test_where_only_signed_packages_are_taken_no_other_lock_is_read_to_find_a_stage(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, keys = parse_manifest(CHAIN).stages[0], key_pair(repository)
    ours = repository / stage.package / stage.version
    digest = read_lock(ours).digest
    unsigned = tiny_package(repository / "other" / stage.package / stage.version, name=stage.package)
    (unsigned / "onward.lock").write_text("not TOML [[[")
    sign_folder(ours, keys.private)
    monkeypatch.setenv(TRUST_VARIABLE, str(keys.public))
    assert locate(stage, [unsigned.parents[1], repository], digest) == ours
    assert locate(stage, [unsigned.parents[1]], digest) == unsigned
    with pytest.raises(NotSigned):
        open_package(unsigned)
