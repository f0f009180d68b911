"""Published schemas to hold manifests against: Kubernetes', KServe's, CycloneDX's, each from one exact wheel.

KServe's own objects are described by its client's generated models (`openapi_types`), which are read and not imported;
what they hold of Kubernetes is held against Kubernetes' schema.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from gallery.fetch import cache_root, fetch

_KUBERNETES = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict/_definitions.json"
_MODELS = (
    "v1alpha1_serving_runtime", "v1alpha1_serving_runtime_spec", "v1alpha1_supported_model_format",
    "v1beta1_inference_service", "v1beta1_inference_service_spec", "v1beta1_predictor_spec", "v1beta1_model_spec",
    "v1beta1_model_format",
)  # fmt: skip
_BILLS = tuple(f"cyclonedx/schema/_res/{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82"))


def _members(package: str, version: str, sha256: str, members: tuple[str, ...]) -> dict[str, Path]:
    return fetch(package, version, sha256, members, cache_root() / "sources" / package)


@functools.cache
def _kubernetes() -> tuple[str, Registry[Any]]:
    sha256 = "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
    file = _members("kubernetes-validate", "1.37.0", sha256, (_KUBERNETES,))[_KUBERNETES]
    definitions = json.loads(file.read_text("utf-8"))
    return definitions["$id"], Registry().with_resource(definitions["$id"], Resource.from_contents(definitions))


def check_kubernetes(value: Any, definition: str) -> None:
    """Raises `jsonschema.ValidationError` unless `value` is what Kubernetes 1.37 takes, without unknown members.

    `definition` is as in the API, such as `apps.v1.Deployment`.
    """
    address, registry = _kubernetes()
    prefix = "io.k8s.apimachinery.pkg." if definition.startswith("apis.meta") else "io.k8s.api."
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": f"{address}#/$defs/{prefix}{definition}",
    }
    jsonschema.Draft202012Validator(schema, registry=registry).validate(value)


@functools.cache
def _kserve() -> dict[str, dict[str, str]]:
    """Each model of KServe's by its name: {member in JSON: type}."""
    sha256 = "df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b"
    files = _members("kserve", "0.21.0", sha256, tuple(f"kserve/models/{name}.py" for name in _MODELS))
    models = {}
    for file in files.values():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                told = {
                    target.id: ast.literal_eval(line.value)
                    for line in node.body if isinstance(line, ast.Assign)
                    for target in line.targets if isinstance(target, ast.Name)
                }  # fmt: skip
                names, types = told["attribute_map"], told["openapi_types"]
                models[node.name] = {names[name]: kind for name, kind in types.items()}
    return models


_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}
_CORE = {"V1ObjectMeta": "apis.meta.v1.ObjectMeta"}


def check_kserve(value: Any, kind: str, at: str = "") -> None:
    """Raises `AssertionError` naming the place unless `value` is of that type of KServe's API."""
    listed, mapped = re.fullmatch(r"list\[(.+)\]", kind), re.fullmatch(r"dict\(str, (.+)\)", kind)
    if listed:
        assert isinstance(value, list), f"{at}: no list"
        for index, one in enumerate(value):
            check_kserve(one, listed[1], f"{at}[{index}]")
    elif mapped:
        for key, one in value.items():
            check_kserve(one, mapped[1], f"{at}.{key}")
    elif kind in _PLAIN:
        assert isinstance(value, _PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool)), f"{at}: no {kind}"
    elif kind in _kserve():
        members = _kserve()[kind]
        for key, one in value.items():
            assert key in members, f"{at}.{key}: {kind} has no such member"
            check_kserve(one, members[key], f"{at}.{key}")
    else:
        check_kubernetes(value, _CORE.get(kind, f"core.v1.{kind.removeprefix('V1')}"))


def check_bill(value: Any) -> None:
    """Raises `jsonschema.ValidationError` unless `value` is a CycloneDX 1.6 document."""
    sha256 = "0e807521a921a5c3cb8ce1153f8a61d29eedfe76a46aac2796b7c6b573391a54"
    files = _members("cyclonedx-python-lib", "11.12.0", sha256, _BILLS)
    schemas = [json.loads(files[name].read_text("utf-8")) for name in _BILLS]
    registry: Registry[Any] = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema)) for schema in schemas]
    )
    jsonschema.Draft7Validator(schemas[0], registry=registry).validate(value)
