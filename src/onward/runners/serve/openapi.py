"""What the server takes and gives, as OpenAPI 3.1: one operation for every served model, and the fixed routes.

Knows manifests and signatures; not HTTP, nor how anything is answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import onward
from onward.flow import STAGES_MS
from onward.package.records import Catalogue, Entities, Labels, Named
from onward.runners.serve.lines import MEDIA_TYPE
from onward.runners.serve.models import AnyServed
from onward.runners.serve.openai import described as openai
from onward.runners.serve.staged import StagedModel
from onward.types import Field

Schema: TypeAlias = dict[str, Any]
_SCALARS = {"BOOL": "boolean", "BYTES": "string", "FP": "number"}
_ERRORS = {
    "400": "The input does not fit.",
    "413": "Larger than the package's limits.",
    "415": "Not a kind of input that the package takes.",
    "429": "The queue is full; `retry-after` says when to come back.",
    "500": "The model failed, or the server did.",
    "503": "Not ready, or the store of decisions cannot be reached.",
    "504": "The deadline passed.",
}
_ERROR = {"$ref": "#/components/schemas/Error"}
_TIMEOUT = {
    "name": "x-onward-timeout-ms", "in": "header", "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "How long an answer is of use; at most the package's own deadline.",
}  # fmt: skip
_PRIORITY = {
    "name": "x-onward-priority", "in": "header",
    "schema": {"type": "string", "enum": ["high", "normal", "low"], "default": "normal"},
    "description": "Which of the waiting requests go first.",
}  # fmt: skip
_TENANT = {
    "name": "x-onward-tenant", "in": "header",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "default": "default"},
    "description": "Whose decisions these are.",
}  # fmt: skip
_IDEMPOTENCY_KEY = {
    "name": "idempotency-key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Sent again with the same key and input, a request gets the decision recorded the first time, and "
    "nothing happens again.",
}  # fmt: skip


def document(served: Iterable[AnyServed], newest: Iterable[AnyServed]) -> Schema:
    """The whole document: of every served version, under its name alone where it is the newest."""
    paths: dict[str, Any] = {}
    for model in newest:
        paths[f"/models/{model.id.name}"] = {"post": _operation(model, "")}
    for model in served:
        path = f"/models/{model.id.name}/versions/{model.id.version}"
        paths[path] = {"post": _operation(model, model.id.version)}
    paths |= _fixed() | openai.paths()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Onward", "version": onward.__version__, "description": "AI inference: models and what "
                 "the business makes of their answers."},
        "paths": paths,
        "components": {"schemas": {"Error": _error_schema(), "Decision": _decision_schema()} | openai.components()},
    }  # fmt: skip


def _operation(model: AnyServed, version: str) -> Schema:
    package = model.pipeline.manifest.package
    decides, talks = model.decider is not None, model.pipeline.dialogue is not None
    parameters: list[Schema] = [_TIMEOUT, _PRIORITY]
    on_request = [field.name for field in model.signature.outputs if field.on_request]
    if on_request:
        parameters.append(_asked_for(on_request))
    errors = dict(_ERRORS)
    if isinstance(model, StagedModel):
        names = [*on_request, STAGES_MS]
        parameters = [_TIMEOUT, _PRIORITY, _asked_for(names), *((_TENANT, _IDEMPOTENCY_KEY) if model.decides else ())]
    if decides:
        parameters += [_TENANT, _IDEMPOTENCY_KEY]
        errors["422"] = "The idempotency key was used for another request."
        for failed in ("500", "504"):  # the policy's fallback decides then
            errors.pop(failed)
    return {
        "operationId": f"{model.id.name}{f'@{version}' if version else ''}",
        "tags": [model.id.name],
        "summary": package.description or f"Ask {model.id.name}.",
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": (_message(model) if talks else _bodies(model.signature.inputs))
            | {MEDIA_TYPE: _lines("An item a line, as many as you like.")},
        },
        "responses": {
            "200": {"description": "The answer." if not decides else "The answer and its recorded decision.",
                    "content": {"application/json": {"schema": _reply() if talks else _answer_body(model, decides)},
                                MEDIA_TYPE: _lines("For a body of lines: a line each, an answer or an error with "
                                                   "its line.")}},
            **{status: _failure(text) for status, text in sorted(errors.items())},
        },
    }  # fmt: skip


def _lines(description: str) -> Schema:
    """A body of lines, each of them JSON: OpenAPI 3.1 knows it as a text."""
    return {"schema": {"type": "string", "description": description}}


def _asked_for(names: list[str]) -> Schema:
    return {
        "name": "outputs", "in": "query", "style": "form", "explode": False,
        "schema": {"type": "array", "items": {"enum": names}},
        "description": "Outputs that are computed only on request.",
    }  # fmt: skip


def _bodies(fields: Iterable[Field]) -> Schema:
    fields = list(fields)
    item = _object({field.name: _field(field) for field in fields}, [field.name for field in fields if _needed(field)])
    bodies: Schema = {
        "application/json": {"schema": {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]}}
    }
    contents = {field.content for field in fields}
    if "text" in contents:
        bodies["text/plain"] = {"schema": {"type": "string"}}
    for kind in ("image", "audio"):
        if kind in contents:
            bodies[f"{kind}/*"] = {}
    if contents & {"image", "audio"}:
        files: Schema = {field.name: {} for field in fields if field.content in ("image", "audio")}
        parts = {field.name: _field(field) for field in fields} | files
        bodies["multipart/form-data"] = {"schema": _object(parts, [])}
    return bodies


def _answer_body(model: AnyServed, decides: bool) -> Schema:
    answer = _object(_outputs(model), [])
    ends = {name: {"type": "string"} for name in ("package", "version", "request_id")}
    one: Schema = {"answer": answer, **ends}
    several: Schema = {"answers": {"type": "array", "items": answer}, **ends}
    if decides:
        decision = {"$ref": "#/components/schemas/Decision"}
        nothing = {"oneOf": [answer, {"type": "null"}]}
        failure = {"type": "string", "description": "Why the model gave no answer: the code of its error."}
        one |= {"answer": nothing, "decision": decision, "failure": failure}
        several |= {
            "answers": {"type": "array", "items": nothing}, "decisions": {"type": "array", "items": decision},
            "failure": failure,
        }  # fmt: skip
    required = [name for name in one if name != "failure"], [name for name in several if name != "failure"]
    return {"oneOf": [_object(one, required[0]), _object(several, required[1])]}


def _message(model: AnyServed) -> Schema:
    """The body of one message to a package that people talk with."""
    fields = model.signature.inputs
    conversation = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "Left out, a new one begins."}
    parts = {field.name: _field(field) for field in fields} | {"conversation": conversation}
    item = _object(parts, [field.name for field in fields if _needed(field)])
    return {"application/json": {"schema": item}, "text/plain": {"schema": {"type": "string"}}}


def _reply() -> Schema:
    text = {"type": "string"}
    article = {"type": ["object", "null"], "description": "The page of the help centre that the reply quotes."}
    names = ("reply", "intent", "conversation", "package", "version", "request_id")
    decision = {"$ref": "#/components/schemas/Decision"}
    return _object(dict.fromkeys(names, text) | {"article": article, "decision": decision}, [*names, "decision"])


def _record(step: Catalogue) -> Schema:
    """A record of a catalogue: its own keys, which the file says, and what the step adds."""
    parts: Schema = {"id": {"type": "integer"}}
    parts |= {"score": {"type": "number"}} if step.scores else {}
    parts |= {"reason": {"type": "string"}} if step.reason else {}
    return _object(parts, list(parts)) | {"additionalProperties": True}


def _outputs(model: AnyServed) -> Schema:
    """The parts of an answer: output fields, and the names that stand for scores."""
    fields = {field.name: field for field in model.signature.outputs}
    hidden: set[str] = set()
    shown: Schema = {}
    for step in model.pipeline.manifest.generate:
        if isinstance(step, Labels):
            hidden |= {step.scores, step.indices}
            label: Schema = {step.output: {"type": "string"}, "score": {"type": "number"}}
            shown |= label | {f"{step.output}s": {"type": "array", "items": _object(label, list(label))}}
        elif isinstance(step, Catalogue):
            hidden |= set(step.tensors)
            shown[step.output] = {"type": "array", "maxItems": step.top_k, "items": _record(step)}
        elif isinstance(step, Entities):
            hidden.add(step.scores)
            entity: Schema = {name: {"type": "string"} for name in ("label", "text")}
            entity |= {"score": {"type": "number"}, "start": {"type": "integer"}, "end": {"type": "integer"}}
            shown[step.output] = {"type": "array", "items": _object(entity, list(entity))}
        elif isinstance(step, Named):
            hidden.add(step.input)
            shown[step.input] = _object({name: {"type": "number"} for name in step.names}, [])
    return shown | {name: _answered(field) for name, field in fields.items() if name not in hidden}


def _answered(field: Field) -> Schema:
    """An output: a picture or a clip comes with its kind."""
    if field.content not in ("image", "audio"):
        return _field(field)
    parts = {"media_type": {"type": "string"}, "base64": {"type": "string", "contentEncoding": "base64"}}
    return _object(parts, list(parts)) | ({"description": field.description} if field.description else {})


def _field(field: Field) -> Schema:
    kind = _SCALARS.get(field.datatype[:2] if field.datatype.startswith("FP") else field.datatype, "integer")
    schema: Schema = {"type": kind}
    if field.content in ("image", "audio"):
        schema |= {"contentEncoding": "base64", "contentMediaType": f"{field.content}/*"}
    if field.categories:
        schema["enum"] = list(field.categories)
    for name, value in (("minimum", field.minimum), ("maximum", field.maximum), ("default", field.default)):
        if value is not None:
            schema[name] = value
    for size in reversed(field.shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    text = " ".join(part for part in (field.description, field.units and f"In {field.units}.") if part)
    return schema | ({"description": text} if text else {})


def _needed(field: Field) -> bool:
    return field.required and field.default is None


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _failure(text: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}


def _fixed() -> Schema:
    """The routes that do not depend on what is served."""
    name, entity = _of_path("name"), _of_path("entity")
    wait = {
        "name": "wait_s", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 30, "default": 0},
        "description": "Wait so long for its actions to be settled.",
    }  # fmt: skip
    infer = _fixed_operation(
        "Inference of the Open Inference Protocol V2: tensors in, tensors out, no decision.", name, _TIMEOUT,
        _PRIORITY, errors=tuple(_ERRORS),
    )  # fmt: skip
    infer["requestBody"] = {"required": True, "content": {"application/json": {}, "application/octet-stream": {}}}
    event = _object(
        {"id": {"type": "string"}, "kind": {"type": "string"}, "at": {"type": ["number", "string"]},
         "data": {"type": "object"}}, ["id", "kind"],
    )  # fmt: skip
    add = _fixed_operation("Add events to an entity's history.", entity, _TENANT, errors=("400", "413", "503"))
    content = {"application/json": {"schema": {"oneOf": [event, {"type": "array", "items": event}]}}}
    add["requestBody"] = {"required": True, "content": content}
    of_entity = (entity, _TENANT)
    return {
        "/models": {"get": _fixed_operation("Every model with its fields.")},
        "/decisions/{id}": {"get": _fixed_operation(
            "A recorded decision and where its actions stand.", _of_path("id"), wait, _TENANT, errors=("404", "503")
        )},
        "/profiles/{entity}": {
            "get": _fixed_operation("An entity's features, as each package sees them.", *of_entity, errors=("503",)),
            "delete": _fixed_operation("Erase all traces of an entity.", *of_entity, errors=("503",)),
        },
        "/profiles/{entity}/events": {
            "get": _fixed_operation("An entity's latest events, newest first.", *of_entity, errors=("503",)),
            "post": add,
        },
        "/v2": {"get": _fixed_operation("The server's name, version and extensions.")},
        "/v2/health/live": {"get": _fixed_operation("The process answers.")},
        "/v2/health/ready": {"get": _fixed_operation("Every model is served.", errors=("503",))},
        "/v2/models/{name}": {"get": _fixed_operation("Metadata of a model: tensors, fields, digest.", name,
                                                      errors=("404",))},
        "/v2/models/{name}/infer": {"post": infer},
        "/v2/models/{name}/stats": {"get": _fixed_operation("Statistics of a model's versions, in Triton's form.", name,
                                                            errors=("404",))},
        "/metrics": {"get": _fixed_operation("Prometheus' text format.")},
    }  # fmt: skip


def _fixed_operation(summary: str, *parameters: Schema, errors: tuple[str, ...] = ()) -> Schema:
    texts = _ERRORS | {"404": "There is no such thing."}
    responses = {"200": {"description": "Done."}} | {status: _failure(texts[status]) for status in errors}
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _of_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _error_schema() -> Schema:
    texts = {
        "error": "What is wrong, for people.", "code": "A stable word for it.", "field": "What it is about.",
        "expected": "What would be right.", "found": "What was there instead.", "request_id": "As in the server's log.",
    }  # fmt: skip
    properties = {name: {"type": "string", "description": text} for name, text in texts.items()}
    return _object(properties, ["error", "code", "request_id"])


def _decision_schema() -> Schema:
    text = {"type": "string"}
    states = ["waiting", "pending", "leased", "executing", "done", "refused", "dead", "unknown", "denied"]
    action = _object({"action_id": text, "name": text, "state": {"enum": states}}, ["action_id", "name", "state"])
    properties: Schema = {
        "decision_id": text, "outcome": text, "rule": text, "reasons": {"type": "array", "items": text},
        "arguments": {"type": "object"}, "actions": {"type": "array", "items": action},
    }  # fmt: skip
    return _object(properties, list(properties))
