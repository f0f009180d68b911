from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from onward.errors import DigestMismatch, KeyRefused, NotSigned, OnwardError, SignatureRefused
from onward.opening import open_pipeline
from onward.package.archive import unpack, write_archive
from onward.package.assembly import assemble
from onward.package.digest import lock_of, lock_text, read_lock
from onward.package.package import open_package, verified_manifest
from onward.package.repository import Repository
from onward.package.trust import TRUST_VARIABLE, sign_folder, trust_only, trusted_keys, verify_signature
from tests.keys import Pair, key_pair


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return key_pair(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, models: ModuleType) -> Path:
    return assemble(models.linear_folder(tmp_path / "linear")).folder


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take only packages signed by these keys, until the test ends."""

    def trust(*pairs: Pair) -> None:
        monkeypatch.setenv(TRUST_VARIABLE, os.pathsep.join(str(pair.public) for pair in pairs))

    return trust


OPENERS: list[Callable[[Path], object]] = [open_package, open_pipeline, verified_manifest, Repository]


@pytest.mark.parametrize("opened", OPENERS)
def test_only_what_a_trusted_key_signed_is_opened(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None], opened: Callable[[Path], object]
) -> None:
    other = key_pair(tmp_path, "other")
    trusting(keys)
    with pytest.raises(NotSigned):
        opened(folder)
    sign_folder(folder, other.private)
    with pytest.raises(SignatureRefused, match="trusted"):
        opened(folder)
    sign_folder(folder, keys.private)
    opened(folder)
    trusting(other, keys)  # of several, any
    opened(folder)


def test_without_a_policy_nobody_looks_at_signatures(folder: Path) -> None:
    (folder / "onward.sig").write_bytes(b"nonsense")
    assert open_package(folder).id.digest == read_lock(folder).digest


def test_signing_changes_no_digest_and_stays_beside_it(folder: Path, keys: Pair) -> None:
    before = open_package(folder).id
    sign_folder(folder, keys.private)
    assert open_package(folder).id == before
    assert lock_of(folder).digest == before.digest
    signed = verify_signature(folder, [keys.public])
    assert signed.key == keys.public
    assert set(signed.files) == {"onward.lock", "onward.toml", "model.onnx"}


def test_what_changed_after_signing_is_refused(folder: Path, keys: Pair, trusting: Callable[..., None]) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    manifest = folder / "onward.toml"
    manifest.write_text(manifest.read_text() + "# changed\n")
    with pytest.raises(DigestMismatch):
        open_package(folder)
    # Whoever changes a file can write a lock that fits it, but no signature.
    (folder / "onward.lock").write_text(lock_text(lock_of(folder)))
    with pytest.raises(SignatureRefused, match=r"onward\.lock has changed"):
        open_package(folder)


def test_nothing_is_parsed_before_the_signature_was_found_right(
    folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    (folder / "onward.lock").write_bytes(b"\xff not TOML [[[")
    (folder / "onward.toml").write_bytes(b"\xff not TOML [[[")
    for opened in OPENERS:
        with pytest.raises(SignatureRefused):
            opened(folder)


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize("text", ["not TOML [[[", None], ids=["broken", "longer"])
def test_a_manifest_that_changed_is_not_parsed(
    folder: Path, opened: Callable[[Path], object], text: str | None
) -> None:
    manifest = folder / "onward.toml"
    manifest.write_text(text if text is not None else manifest.read_text() + "# changed\n")
    with pytest.raises(DigestMismatch):
        opened(folder)


@pytest.mark.parametrize("more", ["extra.txt", "sub/extra.txt"])
def test_a_file_that_was_not_signed_is_refused(
    folder: Path, keys: Pair, trusting: Callable[..., None], more: str
) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    (folder / more).parent.mkdir(exist_ok=True)
    (folder / more).write_text("more")
    with pytest.raises(DigestMismatch):
        open_package(folder)


def test_bounds_in_the_lock_are_signed_too(folder: Path, keys: Pair, trusting: Callable[..., None]) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    lock = lock_of(folder, parity={"compared": True})  # the same digest
    assert lock.digest == read_lock(folder).digest
    (folder / "onward.lock").write_text(lock_text(lock))
    with pytest.raises(SignatureRefused):
        open_package(folder)


def test_a_signature_of_another_package_is_refused(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None], models: ModuleType
) -> None:
    text = models.MANIFEST.replace("1.0.0", "2.0.0")
    other = assemble(models.linear_folder(tmp_path / "other", text)).folder
    sign_folder(other, keys.private)
    shutil.copy(other / "onward.sig", folder)
    trusting(keys)
    with pytest.raises(SignatureRefused):
        open_package(folder)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff", b"[" * 100_000, b'{"mediaType": 1}', b"x" * (17 << 20)],
    ids=["empty", "object", "bytes", "deep", "typed", "huge"],
)
def test_what_is_no_signature_is_refused(folder: Path, keys: Pair, trusting: Callable[..., None], data: bytes) -> None:
    (folder / "onward.sig").write_bytes(data)
    trusting(keys)
    with pytest.raises(OnwardError) as refused:
        open_package(folder)
    assert refused.value.code in ("SIGNATURE_REFUSED", "INVALID_PACKAGE")


def test_an_altered_statement_is_refused(folder: Path, keys: Pair, trusting: Callable[..., None]) -> None:
    import base64

    sign_folder(folder, keys.private)
    trusting(keys)
    bundle = json.loads((folder / "onward.sig").read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"linear", b"linear2")).decode()
    (folder / "onward.sig").write_text(json.dumps(bundle))
    with pytest.raises(SignatureRefused, match="trusted"):
        open_package(folder)


def test_a_signature_that_is_a_pipe_or_a_link_is_refused_at_once(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    moved = (folder / "onward.sig").rename(tmp_path / "onward.sig")
    (folder / "onward.sig").symlink_to(moved)
    with pytest.raises(OnwardError, match="a link"):
        open_package(folder)
    (folder / "onward.sig").unlink()
    os.mkfifo(folder / "onward.sig")
    with pytest.raises(OnwardError, match="plain file"):
        open_package(folder)


def test_an_archive_carries_its_signature_and_each_signer_has_a_place_in_the_cache(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    other = key_pair(tmp_path, "other")
    unsigned = write_archive(folder, tmp_path / "unsigned.onward")
    archives = []
    for pair in (keys, other):
        sign_folder(folder, pair.private)
        archives.append(write_archive(folder, tmp_path / f"{pair.private.stem}.onward"))
    folders = {unpack(archive) for archive in (unsigned, *archives)}
    assert len(folders) == 3
    trusting(keys)
    assert open_package(archives[0]).id.digest == read_lock(folder).digest
    with pytest.raises(NotSigned):
        open_package(unsigned)
    with pytest.raises(SignatureRefused):
        open_package(archives[1])


def test_a_refused_archive_leaves_nothing_unpacked(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    archive = write_archive(folder, tmp_path / "p.onward")
    trusting(keys)
    with pytest.raises(NotSigned):
        unpack(archive, tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_a_repository_keeps_the_signature_of_what_it_installs(
    tmp_path: Path, folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    trusting(keys)
    with pytest.raises(NotSigned):
        Repository(tmp_path / "repository").install(folder)
    sign_folder(folder, keys.private)
    open_package(Repository(tmp_path / "repository").install(folder))


def test_packing_again_removes_the_signature(folder: Path, keys: Pair) -> None:
    sign_folder(folder, keys.private)
    assemble(folder)
    assert not (folder / "onward.sig").exists()


def test_a_changed_folder_is_not_signed(folder: Path, keys: Pair) -> None:
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(DigestMismatch):
        sign_folder(folder, keys.private)
    assert not (folder / "onward.sig").exists()


CURVES = [ec.SECP256R1(), *(pytest.param(curve, marks=pytest.mark.long) for curve in (ec.SECP384R1(), ec.SECP521R1()))]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve.name))
def test_model_signing_accepts_our_signatures_and_we_accept_its(
    tmp_path: Path, folder: Path, trusting: Callable[..., None], curve: ec.EllipticCurve
) -> None:
    pytest.importorskip("model_signing")
    keys, signature = key_pair(tmp_path, curve=curve), folder / "onward.sig"
    theirs = [sys.executable, "-W", "ignore", "-m", "model_signing"]
    there = [str(folder), "--signature", str(signature)]
    sign_folder(folder, keys.private)
    verify = [*theirs, "verify", "key", *there, "--public_key", str(keys.public)]
    assert "succeeded" in subprocess.run(verify, capture_output=True, text=True, check=True, timeout=60).stdout
    (folder / "onward.toml").write_text((folder / "onward.toml").read_text() + "# changed\n")
    assert subprocess.run(verify, capture_output=True, timeout=60).returncode != 0
    assemble(folder)
    sign = [*theirs, "sign", "key", *there, "--private_key", str(keys.private)]
    subprocess.run(sign, capture_output=True, check=True, timeout=60)
    trusting(keys)
    open_package(folder)
    (folder / "onward.lock").write_text(lock_text(lock_of(folder, parity={"compared": True})))
    with pytest.raises(SignatureRefused):
        open_package(folder)


def test_keys_of_other_kinds_are_refused(tmp_path: Path, folder: Path) -> None:
    small = key_pair(tmp_path, "small", ec.SECP256K1())
    edwards = tmp_path / "edwards.pem"
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    edwards.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "text.pem").write_text("no key")
    for file in (small.public, edwards, tmp_path / "text.pem", small.private, tmp_path / "nothing.pem"):
        with pytest.raises(KeyRefused):
            trust_only([file])
    for file in (small.private, small.public, tmp_path / "text.pem", tmp_path / "nothing.pem"):
        with pytest.raises(KeyRefused):
            sign_folder(folder, file)
    assert trusted_keys() == ()


@pytest.mark.parametrize("value", ["", os.pathsep, os.pathsep * 3])
@pytest.mark.parametrize("opened", OPENERS)
def test_a_policy_that_names_no_key_lets_nothing_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Path], object], value: str
) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, value)
    with pytest.raises(KeyRefused, match=TRUST_VARIABLE):
        opened(folder)
    with pytest.raises(KeyRefused):
        trust_only([])
    assert os.environ[TRUST_VARIABLE] == value


def test_a_key_whose_path_would_be_read_as_two_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / f"one{os.pathsep}two"
    inner.mkdir()
    with pytest.raises(KeyRefused, match="listed"):
        trust_only([key_pair(inner).public])
    assert TRUST_VARIABLE not in os.environ


def test_a_key_with_a_password_needs_it(tmp_path: Path, folder: Path) -> None:
    keys = key_pair(tmp_path, password="right")
    for password in ("", "wrong"):
        with pytest.raises(KeyRefused, match="password"):
            sign_folder(folder, keys.private, password=password)
    sign_folder(folder, keys.private, password="right")
    verify_signature(folder, [keys.public])


def test_a_policy_whose_key_is_gone_lets_nothing_through(
    folder: Path, keys: Pair, trusting: Callable[..., None]
) -> None:
    sign_folder(folder, keys.private)
    trusting(keys)
    keys.public.unlink()
    with pytest.raises(KeyRefused):
        open_package(folder)
