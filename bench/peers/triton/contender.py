"""NVIDIA Triton Inference Server: the binary from the `nvidia-pytriton` wheel, Python backend with onnxruntime.

The wheel has no onnxruntime backend, so the model runs in Triton's Python backend (its C++ process hands batches to
stub processes over shared memory). Settings follow NVIDIA's optimisation guide: dynamic batching, more instances, a
small queue delay; and the thread counts of onnxruntime and of the HTTP front end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from bench.environments import ensure_environment, python_of, site_packages_of
from bench.layout import REPOSITORIES
from bench.peers.contender import Launch, Served, Setting

MODEL_SOURCE = Path(__file__).with_name("model.py")
WIDTHS = {"mlp-small": (30, 1), "mlp-large": (384, 64)}


class Triton:
    """Triton 2.51 on its HTTP port, V2 JSON or V2 binary tensors."""

    name = "triton"

    def install(self) -> None:
        """Install the wheel and lay out its Python backend beside the stub of this Python version."""
        ensure_environment("triton")
        backend = self._backends() / "python"
        if (backend / "triton_python_backend_stub").exists():
            return
        backend.mkdir(parents=True, exist_ok=True)
        server = self._server()
        for path in (server / "backends" / "python").iterdir():
            if path.is_file():
                shutil.copy2(path, backend)
        stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copy2(stub / "triton_python_backend_stub", backend)

    def version(self) -> str:
        """The server version that this wheel holds."""
        return "Triton 2.51 (nvidia-pytriton 0.7.0), Python backend, onnxruntime"

    def settings(self, served: Served) -> list[Setting]:
        """Instances and onnxruntime threads 1 and 2, delays 0 to 1,000 µs, HTTP threads 8 (default) and 2."""
        plain = {"instances": 1, "threads": 1, "delay_us": 0, "max_batch": 64, "http_threads": 8}
        tried = [
            plain,
            plain | {"http_threads": 2},
            plain | {"instances": 2},
            plain | {"threads": 2},
            plain | {"delay_us": 100},
            plain | {"delay_us": 500},
            plain | {"delay_us": 500, "http_threads": 2},
            plain | {"delay_us": 1000, "http_threads": 2, "max_batch": 128},
            plain | {"instances": 2, "http_threads": 2},
            plain | {"instances": 2, "http_threads": 2, "delay_us": 500},
        ]
        if served.form in {"image", "text"}:
            tried = [plain, *[one for one in tried[1:] if one["delay_us"] == 0]]
            tried.append(plain | {"instances": 2, "max_batch": 8})
        return tried

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Write a model repository for this setting and start the binary on it."""
        repository = self._repository(served, setting)
        site = site_packages_of("triton")
        libraries = [str(site / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
        argv = [
            str(self._server() / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={self._backends()}",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            f"--http-thread-count={setting['http_threads']}",
            "--allow-grpc=false",
            f"--metrics-port={port + 1}",
            "--log-verbose=0",
        ]
        environment = {
            "LD_LIBRARY_PATH": ":".join(libraries),
            # The stub embeds Python, ignores PYTHONPATH, and finds its packages through the first python3 on PATH.
            "PATH": f"{python_of('triton').parent}:{os.environ['PATH']}",
            "BENCH_PACKAGE": str(served.folder),
            "BENCH_THREADS": str(setting["threads"]),
        }
        return Launch(argv=argv, environment=environment)

    def dialect(self, served: Served, setting: Setting) -> str:
        """How requests carry the input."""
        return "v2"

    def ready_path(self, served: Served) -> str:
        """Triton's own readiness."""
        return "/v2/health/ready"

    def _server(self) -> Path:
        return site_packages_of("triton") / "pytriton" / "tritonserver"

    def _backends(self) -> Path:
        return REPOSITORIES / "triton-backends"

    def _repository(self, served: Served, setting: Setting) -> Path:
        key = hashlib.sha256(json.dumps([served.name, served.form, setting], sort_keys=True).encode()).hexdigest()[:12]
        repository = REPOSITORIES / f"triton-{served.name}-{key}"
        version = repository / served.name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (repository / served.name / "config.pbtxt").write_text(_config(served, setting), "utf-8")
        shutil.copy2(MODEL_SOURCE, version / "model.py")
        os.utime(version / "model.py")
        return repository


def _config(served: Served, setting: Setting) -> str:
    if served.form in {"image", "text"}:
        inputs = 'input [{ name: "item" data_type: TYPE_STRING dims: [1] }]'
        outputs = (
            'output [{ name: "label" data_type: TYPE_STRING dims: [-1] },'
            ' { name: "score" data_type: TYPE_FP32 dims: [-1] }]'
        )
    else:
        columns, results = WIDTHS[served.name]
        inputs = f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{columns}] }}]'
        outputs = f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{results}] }}]'
    delay = f"max_queue_delay_microseconds: {setting['delay_us']}" if setting["delay_us"] else ""
    lines = [
        f'name: "{served.name}"',
        'backend: "python"',
        f"max_batch_size: {setting['max_batch']}",
        f"dynamic_batching {{ {delay} }}",
        f"instance_group [{{ kind: KIND_CPU count: {setting['instances']} }}]",
        inputs,
        outputs,
        'parameters: { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: { string_value: "yes" } }',
        "",
    ]
    return "\n".join(lines)
