from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import DigestMismatch, ModelNotFound, NotFound, PackageError
from onward.package.archive import write_archive
from onward.package.assembly import assemble
from onward.package.package import open_package
from onward.package.repository import Repository, version_key


def package(tmp_path: Path, models: ModuleType, version: str, *, description: str = "") -> Path:
    manifest = models.MANIFEST.replace('"1.0.0"', f'"{version}"\ndescription = "{description}"')
    return assemble(models.linear_folder(tmp_path / f"made-{version}-{description}", manifest)).folder


def test_installed_versions_sort_by_number(tmp_path: Path, models: ModuleType) -> None:
    repository = Repository(tmp_path / "repository")
    for version in ("1.10.0", "1.9.0", "2"):
        repository.install(package(tmp_path, models, version))
    assert repository.names() == ("linear",)
    assert repository.versions("linear") == ("1.9.0", "1.10.0", "2")
    assert repository.path("linear") == tmp_path / "repository" / "linear" / "2"
    assert open_package(repository.path("linear", "1.9.0")).id.version == "1.9.0"


def test_installing_twice_changes_nothing_and_other_contents_are_refused(tmp_path: Path, models: ModuleType) -> None:
    repository = Repository(tmp_path / "repository")
    first = repository.install(package(tmp_path, models, "1.0.0"))
    assert repository.install(first) == first
    with pytest.raises(PackageError, match="other contents"):
        repository.install(package(tmp_path, models, "1.0.0", description="new"))
    assert [path.name for path in first.parent.iterdir()] == ["1.0.0"]


def test_a_changed_package_is_not_installed(tmp_path: Path, models: ModuleType) -> None:
    folder = package(tmp_path, models, "1.0.0")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DigestMismatch):
        Repository(tmp_path / "repository").install(folder)
    assert Repository(tmp_path / "repository").names() == ()


def test_moving_takes_the_source_away(tmp_path: Path, models: ModuleType) -> None:
    folder = package(tmp_path, models, "1.0.0")
    place = Repository(tmp_path / "repository").install(folder, move=True)
    assert not folder.exists() and open_package(place)


def test_an_archive_can_be_installed(tmp_path: Path, models: ModuleType) -> None:
    archive = write_archive(package(tmp_path, models, "1.0.0"), tmp_path / "a.onward")
    repository = Repository(tmp_path / "repository")
    repository.install(archive)
    assert repository.versions("linear") == ("1.0.0",)


@pytest.mark.parametrize("name", ["..", "../linear", "/etc", "linear/1.0.0", "LINEAR", "", "a" * 65, "a\0b"])
def test_a_path_is_not_a_name(tmp_path: Path, models: ModuleType, name: str) -> None:
    repository = Repository(tmp_path / "repository")
    repository.install(package(tmp_path, models, "1.0.0"))
    with pytest.raises(ModelNotFound):
        repository.path(name)
    with pytest.raises(ModelNotFound):
        repository.path("linear", name or "..")


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path, models: ModuleType) -> None:
    repository = Repository(tmp_path / "repository")
    repository.install(package(tmp_path, models, "1.0.0"))
    with pytest.raises(ModelNotFound, match='did you mean "linear"'):
        repository.versions("liner")


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_single_package_is_a_repository_of_one(tmp_path: Path, models: ModuleType, form: str) -> None:
    path = package(tmp_path, models, "1.0.0")
    if form == "archive":
        path = write_archive(path, tmp_path / "p.onward")
    repository = Repository(path)
    assert (repository.names(), repository.versions("linear")) == (("linear",), ("1.0.0",))
    assert open_package(repository.path("linear")).id.name == "linear"
    with pytest.raises(PackageError):
        repository.install(path)


def test_an_empty_repository_has_no_models(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "nothing")
    assert repository.names() == ()
    with pytest.raises(ModelNotFound, match="empty"):
        repository.versions("linear")


def test_nothing_is_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_package(tmp_path / "nothing")


@given(st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1))
def test_versions_sort_as_their_numbers_do(numbers: list[list[int]]) -> None:
    versions = [".".join(map(str, parts)) for parts in numbers]
    assert sorted(versions, key=version_key) == [".".join(map(str, parts)) for parts in sorted(numbers)]


def test_a_single_package_is_verified_before_its_manifest_is_read(tmp_path: Path, models: ModuleType) -> None:
    folder = package(tmp_path, models, "1.0.0")
    (folder / "onward.toml").write_text("format = ")
    with pytest.raises(DigestMismatch, match=r'"onward\.toml" has changed'):
        Repository(folder)
    (folder / "onward.toml").unlink()
    with pytest.raises(DigestMismatch, match=r'"onward\.toml" is missing'):
        Repository(folder)


def test_a_single_folder_that_is_not_packed_says_so(tmp_path: Path, models: ModuleType) -> None:
    with pytest.raises(PackageError, match="pack the folder first"):
        Repository(models.linear_folder(tmp_path / "p"))


def test_a_folder_of_versions_is_a_repository_of_one_name(
    tmp_path: Path, models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Repository(tmp_path / "repository")
    whole.install(package(tmp_path, models, "1.0.0"))
    (tmp_path / "repository" / "other" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "other" / "1" / "onward.toml").touch()
    monkeypatch.chdir(tmp_path / "repository" / "linear")
    for root in (tmp_path / "repository" / "linear", Path()):
        repository = Repository(root)
        assert (repository.names(), repository.versions("linear")) == (("linear",), ("1.0.0",))
        assert open_package(repository.path("linear")).id.name == "linear"
        with pytest.raises(ModelNotFound):
            repository.path("other")
    whole.install(package(tmp_path, models, "2.0.0"))
    assert repository.versions("linear") == ("1.0.0", "2.0.0")


def test_a_folder_of_versions_without_the_name_of_a_package_says_what_would_be_right(
    tmp_path: Path, models: ModuleType
) -> None:
    repository = Repository(tmp_path / "repository")
    repository.install(package(tmp_path, models, "1.0.0"))
    odd = (tmp_path / "repository" / "linear").rename(tmp_path / "My Models")
    with pytest.raises(PackageError, match="the name of its package"):
        Repository(odd)
