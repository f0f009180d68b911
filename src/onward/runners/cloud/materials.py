"""The bill of materials of an image (CycloneDX 1.6, JSON): its Python distributions and its packages.

Versions and hashes are those that the image is built with; licences are told by the distributions' own metadata, where
the same version is installed here. What the base image brings is not in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from onward.runners.cloud.distributions import Pin
from onward.runners.cloud.packages import Packaged

_SPACE = uuid.UUID("5f0c8f0e-8b6e-5c5b-9d2f-1f7c2f0f6a10")


def bill(name: str, version: str, onward_version: str, wheel_sha256: str, pins: Iterable[Pin],
         packages: Iterable[Packaged]) -> str:  # fmt: skip
    """The document's text; the same contents give the same text, so it bears no time."""
    own = _library("onward", onward_version, [f"sha256:{wheel_sha256}"])
    pinned = [_library(pin.name, pin.version, pin.hashes if len(pin.hashes) == 1 else ()) for pin in pins]
    components = [own, *pinned, *map(_model, packages)]
    digest = uuid.uuid5(_SPACE, json.dumps(components, sort_keys=True))
    root = {"type": "container", "bom-ref": "image", "name": name, "version": version}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{digest}",
        "version": 1,
        "metadata": {"component": root, "tools": {"components": [_tool(onward_version)]}},
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _tool(version: str) -> dict[str, Any]:
    return {"type": "application", "name": "onward", "version": version}


def _library(name: str, version: str, hashes: Iterable[str]) -> dict[str, Any]:
    reference = f"pkg:pypi/{name}@{version}"
    component: dict[str, Any] = {
        "type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference,
    }  # fmt: skip
    known = [{"alg": "SHA-256", "content": one.partition(":")[2]} for one in hashes]
    if known:
        component["hashes"] = known
    licence = _licence(name, version)
    if licence:
        component["licenses"] = [licence]
    return component


def _model(package: Packaged) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"package:{package.name}@{package.version}",
        "name": package.name,
        "version": package.version,
        "hashes": [{"alg": "SHA-256", "content": package.digest.removeprefix("sha256:")}],
        "licenses": [{"license": {"name": package.licence}}],
        "properties": [{"name": "onward:task", "value": package.task}],
    }


def _licence(name: str, version: str) -> dict[str, Any]:
    """What the installed distribution says, if it is that version: an SPDX expression, or a name in its own words."""
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return {}
    if found["Version"] != version:
        return {}
    if found["License-Expression"]:
        return {"expression": found["License-Expression"]}
    classified = [
        one.rpartition(" :: ")[2] for one in found.get_all("Classifier") or () if one.startswith("License ::")
    ]
    written = (found["License"] or "").strip().splitlines()
    said = classified[:1] or [line for line in written[:1] if line != "UNKNOWN"]
    return {"license": {"name": said[0][:200]}} if said else {}
