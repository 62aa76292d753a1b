"""Triton out of NVIDIA's own package: its repository and its command line. Knows where the package keeps what."""

import shutil
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.bench import Bench
from benchmarks.servers import Server

MAX_BATCH, QUEUE_DELAY_US = 128, 200
SHARED_MEMORY = Path("/dev/shm")
CONFIG = """
name: "bench"
backend: "python"
max_batch_size: {max_batch}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {inputs} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {outputs} ] }} ]
sequence_batching {{
  max_sequence_idle_microseconds: 600000000
  direct {{ max_queue_delay_microseconds: {delay} }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "READY" control [ {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} ] }}
  ]
}}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def write_repository(repository: Path, model: Path, packages: Path, inputs: int, outputs: int) -> None:
    """The model as Triton wants it; its Python does not read PYTHONPATH, so the model says where packages are."""
    version = repository / "bench" / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, version / "model.onnx")
    code = Path(__file__).with_name("model.py").read_text()
    (version / "model.py").write_text(f"import sys\n\nsys.path.insert(0, {str(packages)!r})\n{code}")
    config = CONFIG.format(max_batch=MAX_BATCH, inputs=inputs, outputs=outputs, delay=QUEUE_DELAY_US)
    (repository / "bench" / "config.pbtxt").write_text(config)


def write_backends(backends: Path, package: Path) -> None:
    """The back ends, with the process for Python where they look for it; once, a process of before may still run."""
    python = backends / "python"
    if python.exists():
        return
    shutil.copytree(package / "backends" / "python", python)
    version = sysconfig.get_python_version()
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", python)


@asynccontextmanager
async def triton(bench: Bench, environment: Path) -> AsyncIterator[Server]:
    """Triton, installed in the environment; it serves the model `bench`."""
    packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    package = packages / "pytriton" / "tritonserver"
    repository, backends = bench.directory / "triton-models", bench.directory / "triton-backends"
    write_repository(repository, bench.model("bench"), packages, inputs=40, outputs=8)
    write_backends(backends, package)
    port = servers.free_port()
    command: list[str | Path] = [
        package / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={bench.directory.name}",
        f"--grpc-port={port}",
        "--grpc-address=127.0.0.1",
        "--exit-timeout-secs=2",
        "--allow-http=false",
        "--allow-metrics=false",
        "--log-info=false",
        "--log-warning=false",
    ]
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
    variables, log = {"LD_LIBRARY_PATH": libraries}, bench.log("triton")
    try:
        async with servers.started(bench.children, "triton", "v2_stream", command, log, variables, port=port) as server:
            yield server
    finally:
        forget(bench.directory.name)


def forget(prefix: str) -> None:
    """Removes the shared memory that a Triton leaves that had to be killed."""
    for left in SHARED_MEMORY.glob(f"{prefix}*"):
        left.unlink(missing_ok=True)
