"""`onward sign`: a signature for a package, in its folder or its archive."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onward.errors import UsageError
from onward.package.archive import unpack, write_archive
from onward.package.digest import SIGNATURE_FILE, read_lock
from onward.package.sources import is_source
from onward.package.trust import sign_folder
from onward.runners.local import find


def sign(package: str, key: Path, *, password: str = "") -> Mapping[str, Any]:
    """Sign a package folder in its place, or an archive by replacing it; what is told of it.

    Raises `KeyRefused`, `DigestMismatch` where the package is not what its lock says, and what finding it raises.
    """
    if is_source(package):
        expected = "a package of this machine, which is then put there again"
        raise UsageError("what lies elsewhere cannot be signed", where=package, expected=expected)
    path = find(package)
    if path.is_dir():
        signer = sign_folder(path, key, password=password)
        digest = read_lock(path).digest
        return {"path": str(path / SIGNATURE_FILE), "digest": digest, "key": signer}
    with tempfile.TemporaryDirectory(prefix="onward-sign-") as place:
        folder = Path(place) / path.stem
        shutil.copytree(unpack(path, signed=False), folder)
        signer = sign_folder(folder, key, password=password)
        write_archive(folder, path)
        return {"path": str(path), "digest": read_lock(folder).digest, "key": signer}
