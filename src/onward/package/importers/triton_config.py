"""A model's `config.pbtxt` of a Triton model repository, as far as Onward has something for it.

Reads the text only. Whatever a package cannot do is refused here with the reason, and whatever does not carry over is a
note for the person who moves; a key that this module does not know becomes a note, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from onward.errors import PackageError
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.textformat import Message, read_text_format
from onward.package.sections import is_inner_path

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
MAX_QUEUE_DELAY_US = 10_000_000
MAX_INSTANCES = 1024
MAX_ELEMENTS = 1 << 27
MAX_BYTES = 4 << 20

_EXPORT = "an ONNX model in the version's folder: export it where it was trained"
_BUILT_FROM = "the ONNX file that it was built from: an engine fits one kind of GPU only"
_INSTEAD = {
    "tensorrt": _BUILT_FROM,
    "tensorrt_plan": _BUILT_FROM,
    "pytorch": f"{_EXPORT}, with torch.onnx.export",
    "pytorch_libtorch": f"{_EXPORT}, with torch.onnx.export",
    "tensorflow": f"{_EXPORT}, with tf2onnx",
    "tensorflow_graphdef": f"{_EXPORT}, with tf2onnx",
    "tensorflow_savedmodel": f"{_EXPORT}, with tf2onnx",
    "openvino": "the ONNX file that the OpenVINO model was made from",
    "python": 'a folder with [execute] backend = "python", for onward pack (docs/how-to/python-backend.md)',
    "fil": "the forest's own file (XGBoost or LightGBM), for onward pack",
    "dali": "its steps as [[prepare]] of the package that needs them: decode_image and a graph",
    "vllm": "the model as GGUF, for onward pack",
    "tensorrtllm": "the model as GGUF, for onward pack",
}
_ONNX = frozenset({"onnxruntime", "onnxruntime_onnx"})
# What Triton's scheduler, backends and GPUs do that has no counterpart, and what takes its place.
_PASSED_OVER = {
    "optimization": "Onward lets onnxruntime optimise the graph as it does by itself; accelerators are "
    "[execute] providers",
    "model_warmup": "the golden examples are the warm-up",
    "response_cache": "answers are not cached",
    "metric_tags": "metrics carry the model's name and version",
    "model_metrics": "the metrics are Onward's own",
    "cc_model_filenames": "one model file for every GPU",
    "model_repository_agents": "agents are not run: the files are taken as they lie there",
}
_OF_BATCHER = {
    "preferred_batch_size": "a batch is what has arrived while the last one ran, up to max_batch_size",
    "preserve_ordering": "answers come when they are ready",
    "priority_levels": "requests have no levels of priority",
    "default_priority_level": "requests have no levels of priority",
    "priority_queue_policy": "requests have no levels of priority",
    "default_queue_policy": "limits of the queue are [limits] queue_rows and deadline_ms",
}


@dataclass(frozen=True, kw_only=True)
class ConfigTensor:
    """An input or output as clients see it: `dims` without the batch where the model has `max_batch_size` above 0.

    `reshape` is what the model has in the place of `dims`, None where it is the same.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    label_file: str = ""


@dataclass(frozen=True, kw_only=True)
class EnsembleStep:
    """One step of an ensemble: maps are {the model's tensor: the ensemble's tensor}; version -1 is the latest."""

    model: str
    version: int
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class VersionPolicy:
    """Which versions are served: `specific` ones, the `latest` so many, or, where that is 0, all."""

    latest: int = 1
    specific: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What a package can take over of a `config.pbtxt`; `notes` say in words what it cannot."""

    name: str
    file: str = MODEL_FILE
    max_batch_size: int = 0
    inputs: tuple[ConfigTensor, ...] = ()
    outputs: tuple[ConfigTensor, ...] = ()
    steps: tuple[EnsembleStep, ...] = ()
    max_queue_delay_us: int = 0
    instances: int = 1
    threads: int = 0
    on_gpu: bool = False
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    notes: tuple[str, ...] = ()
    is_written: bool = True


def read_config(folder: Path) -> TritonConfig:
    """Read a model's folder. Without a `config.pbtxt` everything is as the model itself says, as Triton does it.

    Raises `PackageError` with the line for a file that cannot be read, `UnsupportedModel` for what Onward has not got.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        note = f"no {CONFIG_FILE}: names, datatypes and shapes are the model's own"
        return TritonConfig(name=folder.name, notes=(note,), is_written=False)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"cannot be read: {error}", where=str(file), expected="text format in UTF-8") from None
    if len(data) > MAX_BYTES:
        raise PackageError("the file is too long", where=str(file), expected=f"at most {MAX_BYTES} bytes")
    return config_of(read_text_format(text, str(file)), folder.name)


def config_of(message: Message, folder_name: str) -> TritonConfig:
    """The configuration that a message is; raises as `read_config` does."""
    notes: list[str] = []
    name = message.text("name", folder_name)
    if name != folder_name:
        raise PackageError("the model is called other than its folder", where=message.where,
                           expected=f'name: "{folder_name}"', found=f'"{name}"')  # fmt: skip
    is_ensemble = _check_backend(message)
    _refuse(message)
    steps = _steps(message) if is_ensemble else ()
    instances, on_gpu = _instances(message, notes)
    config = TritonConfig(
        name=name,
        file=_file(message),
        max_batch_size=message.integer("max_batch_size"),
        inputs=tuple(_tensor(each, notes) for each in message.messages("input")),
        outputs=tuple(_tensor(each, notes) for each in message.messages("output")),
        steps=steps,
        max_queue_delay_us=_queue_delay(message, notes, is_ensemble=is_ensemble),
        instances=instances,
        on_gpu=on_gpu,
        threads=_threads(message, notes),
        policy=_policy(message, notes),
    )
    if config.max_batch_size < 0:
        raise message.wrong("max_batch_size", "0 or more", config.max_batch_size)
    notes += [f"{key}: {why}" for key, why in _PASSED_OVER.items() if message.passed_over(key)]
    notes += [f"{key}: not known to Onward, and not carried over" for key in dict.fromkeys(message.unread())]
    return replace(config, notes=tuple(dict.fromkeys(notes)))


def _check_backend(message: Message) -> bool:
    """Whether it is an ensemble. Raises `UnsupportedModel` for what is neither ONNX nor an ensemble."""
    platform, backend = message.text("platform"), message.text("backend")
    message.text("runtime")  # which library of the backend: there is one onnxruntime
    if platform == "ensemble" or message.has("ensemble_scheduling"):
        return True
    for given in (platform, backend):
        if given and given not in _ONNX:
            expected = _INSTEAD.get(given, "an ONNX model, or an ensemble of such")
            raise UnsupportedModel(f'its backend is "{given}"', where=message.where, expected=expected)
    return False


def _refuse(message: Message) -> None:
    """Raise `UnsupportedModel` for what would answer otherwise, or not at all."""
    reasons = {
        "sequence_batching": (
            "it keeps a state between the requests of a sequence",
            "a model that takes its state as an input and gives it as an output, kept by the caller",
        ),
        "batch_input": ("it needs tensors that Triton makes of a ragged batch", "a model whose inputs a request has"),
        "batch_output": ("its outputs are cut out of a ragged batch", "a model with a row of output for each of input"),
    }
    for key, (reason, expected) in reasons.items():
        if message.has(key):
            raise UnsupportedModel(f"{key}: {reason}", where=message.where, expected=expected)
    operations = message.message("model_operations")
    if operations is not None and operations.values("op_library_filename"):
        raise UnsupportedModel("model_operations: it loads a library of foreign operators", where=message.where,
                               expected="a graph of operators that onnxruntime has")  # fmt: skip
    transactions = message.message("model_transaction_policy")
    if transactions is not None and transactions.flag("decoupled"):
        raise UnsupportedModel("model_transaction_policy: it answers a request any number of times",
                               where=message.where, expected="one answer for each request")  # fmt: skip


def _file(message: Message) -> str:
    file = message.text("default_model_filename", MODEL_FILE) or MODEL_FILE
    if not is_inner_path(file):
        raise PackageError("default_model_filename leads out of the version's folder", where=message.where,
                           expected="a file of the version's folder", found=f'"{file}"')  # fmt: skip
    return file


def _tensor(message: Message, notes: list[str]) -> ConfigTensor:
    name = message.text("name")
    where = f'"{name}" of {message.where}'
    if not name:
        raise PackageError("an input or output has no name", where=message.where)
    datatype = message.word("data_type", "TYPE_INVALID").removeprefix("TYPE_")
    datatype = "BYTES" if datatype == "STRING" else datatype
    if datatype in ("BF16", "INVALID"):
        found = "BF16" if datatype == "BF16" else "no data_type"
        raise UnsupportedModel("this datatype cannot be served", where=where,
                               expected="TYPE_BOOL, TYPE_UINT8 … TYPE_FP64 or TYPE_STRING", found=found)  # fmt: skip
    for key, reason in (("is_shape_tensor", "only TensorRT has shape tensors"),
                        ("allow_ragged_batch", "rows of different sizes are not laid end to end"),
                        ("is_non_linear_format_io", "only TensorRT has such layouts")):  # fmt: skip
        if message.flag(key):
            raise UnsupportedModel(f"{key}: {reason}", where=where, expected="a tensor with the batch in front")
    if message.word("format", "FORMAT_NONE") != "FORMAT_NONE":
        notes.append(f"{name}: format only says what the dims mean; clients send the tensor as before")
    if message.flag("optional"):
        notes.append(f"{name}: optional in Triton's configuration, but the model needs it, and so does Onward")
    reshape = message.message("reshape")
    dims, inner = message.integers("dims"), reshape.integers("shape") if reshape is not None else None
    if any(size < -1 or size == 0 for size in (*dims, *(inner or ()))):
        raise PackageError("a size that no tensor has", where=where, expected="-1, or 1 and above", found=str(dims))
    if math.prod(map(abs, dims)) > MAX_ELEMENTS:
        raise PackageError("a tensor of absurd size", where=where, expected=f"at most {MAX_ELEMENTS} elements a row",
                           found=str(list(dims)))  # fmt: skip
    label_file = message.text("label_filename")
    if label_file and not is_inner_path(label_file):
        raise PackageError("label_filename leads out of the model's folder", where=where, found=f'"{label_file}"')
    return ConfigTensor(
        name=name, datatype=datatype, dims=dims, label_file=label_file, reshape=inner,
    )  # fmt: skip


def _steps(message: Message) -> tuple[EnsembleStep, ...]:
    scheduling = message.message("ensemble_scheduling")
    steps = [
        EnsembleStep(
            model=step.text("model_name"),
            version=step.integer("model_version", -1),
            inputs=_map(step, "input_map"),
            outputs=_map(step, "output_map"),
        )
        for step in (scheduling.messages("step") if scheduling is not None else [])
    ]
    if not steps or not all(step.model for step in steps):
        raise PackageError("an ensemble without steps, or a step without a model", where=message.where,
                           expected="ensemble_scheduling { step [ { model_name: … } ] }")  # fmt: skip
    return tuple(steps)


def _map(message: Message, name: str) -> dict[str, str]:
    return {entry.text("key"): entry.text("value") for entry in message.messages(name)}


def _queue_delay(message: Message, notes: list[str], *, is_ensemble: bool) -> int:
    batcher = message.message("dynamic_batching")
    if batcher is None:
        if message.integer("max_batch_size") > 1 and not is_ensemble:
            notes.append("no dynamic_batching: Triton ran each request by itself, Onward runs rows that wait together; "
                         "that the answers stay the same is checked")  # fmt: skip
        return 0
    for key, why in _OF_BATCHER.items():
        if batcher.passed_over(key):
            notes.append(f"dynamic_batching.{key}: {why}")
    delay_us = batcher.integer("max_queue_delay_microseconds")
    if delay_us > MAX_QUEUE_DELAY_US:
        notes.append(f"max_queue_delay_microseconds: {delay_us} is more than the {MAX_QUEUE_DELAY_US} of Onward")
    return max(0, min(delay_us, MAX_QUEUE_DELAY_US))


def _instances(message: Message, notes: list[str]) -> tuple[int, bool]:
    """How many instances, and whether any runs on a GPU."""
    count, on_gpu = 0, False
    for group in message.messages("instance_group"):
        kind = group.word("kind", "KIND_AUTO")
        each = group.integer("count", 1) or 1
        gpus = group.integers("gpus")
        group.text("name")
        if kind == "KIND_GPU" or gpus:
            on_gpu = True
            each *= max(1, len(gpus))
            notes.append('instance_group: on a GPU; providers = ["cuda", "cpu"], without a number of the card')
        if group.flag("passive"):
            notes.append("instance_group.passive: an instance that does nothing is left out")
            continue
        count += max(1, each)
        for key in ("rate_limiter", "profile", "secondary_devices", "host_policy"):
            if group.passed_over(key):
                notes.append(f"instance_group.{key}: not carried over")
    if count > MAX_INSTANCES:
        notes.append(f"instance_group: {count} instances are more than the {MAX_INSTANCES} of Onward")
    return min(max(1, count), MAX_INSTANCES), on_gpu


def _threads(message: Message, notes: list[str]) -> int:
    threads = 0
    for entry in message.messages("parameters"):
        key, value = entry.text("key"), entry.message("value")
        text = value.text("string_value") if value is not None else ""
        if key == "intra_op_thread_count" and text.isdigit() and int(text) <= 4096:
            threads = int(text)
        else:
            notes.append(f'parameters: "{key}" is not carried over')
    return threads


def _policy(message: Message, notes: list[str]) -> VersionPolicy:
    policy = message.message("version_policy")
    if policy is None:
        return VersionPolicy()
    specific = policy.message("specific")
    if specific is not None:
        versions = specific.integers("versions")
        if len(versions) > 1:
            notes.append(_served_together(len(versions)))
        return VersionPolicy(specific=versions)
    if policy.message("all") is not None:
        notes.append("version_policy: all versions; onward serve --keep-versions N serves the newest N of each model")
        return VersionPolicy(latest=0)
    latest = policy.message("latest")
    count = latest.integer("num_versions", 1) if latest is not None else 1
    if count > 1:
        notes.append(_served_together(count))
    return VersionPolicy(latest=max(1, count))


def _served_together(count: int) -> str:
    return f"version_policy: {count} versions at once; serve them with onward serve --keep-versions {count}"
