"""The installed Onward as a wheel: what an image installs is what wrote it, from a checkout or not, without a network.

The same files give the same bytes, so that an image's hash says whether anything has changed.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

import onward

_WHEEL = "Wheel-Version: 1.0\nGenerator: onward\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_KEPT = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> Path:
    """Write `onward-VERSION-py3-none-any.whl` into a folder and return its path."""
    distribution = metadata.distribution("onward")
    info = f"onward-{distribution.version}.dist-info"
    files = {f"onward/{name}": content for name, content in _sources().items()}
    kept = {name: distribution.read_text(name) for name in _KEPT}
    files |= {f"{info}/{name}": text.encode() for name, text in kept.items() if text}
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    records = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"onward-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return path


def _sources() -> dict[str, bytes]:
    root = Path(onward.__file__).parent
    found = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
