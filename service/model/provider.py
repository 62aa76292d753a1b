"""How a graph is opened in ONNX Runtime: the options of its session and the execution provider that runs it.

Knows what ONNX Runtime has here. Must not know where graphs come from or what a timestep is.
"""

from dataclasses import dataclass

import onnxruntime
import structlog

from service import metrics
from service.model.manifest import PROVIDERS, Cuda
from service.model.wiring import ModelRefused
from service.settings import Settings

CPU, CUDA = PROVIDERS["cpu"], PROVIDERS["cuda"]

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """What whoever runs this replica says about where graphs run."""

    provider: str = ""
    """A key of PROVIDERS, whatever manifests say; empty: as they say."""
    fallback: bool = False
    """A graph whose provider is not here runs on the CPU; else its model is refused."""
    cuda_device: int = 0
    cuda_memory: int = 0
    """Bytes on the device that ONNX Runtime may take for one model; 0: any number."""

    @classmethod
    def of(cls, settings: Settings) -> "Execution":
        """As the settings say."""
        return cls(settings.provider, settings.provider_fallback, settings.cuda_device, settings.cuda_memory_bytes)


def open_graph(
    source: str | bytes, model: str, provider: str, cuda: Cuda, execution: Execution
) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime for the graph in `source`, a path or the graph itself, on `provider`.

    Raises ModelRefused, beginning with `model`: the graph cannot be opened, or its provider is not here and
    `execution` allows no fallback.
    """
    if provider == CPU:
        return _session(source, model, CPU, {})
    try:
        return _cuda_session(source, model, cuda, execution)
    except ModelRefused as refusal:
        if not execution.fallback:
            raise
        session = _session(source, model, CPU, {})
        metrics.PROVIDER_FALLBACKS.labels(model.split("/")[0]).inc()
        logger.warning("model.fallback", model=model, provider=CPU, why=str(refusal))
        return session


def _cuda_session(source: str | bytes, model: str, cuda: Cuda, execution: Execution) -> onnxruntime.InferenceSession:
    available = onnxruntime.get_available_providers()
    if CUDA not in available:
        raise ModelRefused(f"{model}: provider: one of {available} expected, not {CUDA}")
    onnxruntime.preload_dlls()  # CUDA and cuDNN where they came as Python packages
    options: dict[str, str | int] = {
        "device_id": execution.cuda_device,
        # the same algorithm at each start; the default tries all of them by the clock, at each new batch size
        "cudnn_conv_algo_search": cuda.conv_search.upper(),
        "use_tf32": int(cuda.tf32),
        "arena_extend_strategy": "kSameAsRequested",
    }
    if execution.cuda_memory:
        options["gpu_mem_limit"] = execution.cuda_memory
    session = _session(source, model, CUDA, options)
    # without a driver, a device or its libraries ONNX Runtime says so to its own log only, and takes the CPU
    if CUDA not in session.get_providers():
        raise ModelRefused(f"{model}: provider: {CUDA} cannot run here: its libraries, a driver and a device expected")
    return session


def _session(
    source: str | bytes, model: str, provider: str, options: dict[str, str | int]
) -> onnxruntime.InferenceSession:
    try:
        # its own fallback would hide a provider that fails, now or in the middle of the service
        return onnxruntime.InferenceSession(
            source, session_options(), providers=[(provider, options)], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        reason = " ".join(str(error).split())[:300]
        raise ModelRefused(f"{model}: ONNX Runtime refuses the graph: {reason}") from None


def session_options() -> onnxruntime.SessionOptions:
    """One thread and no spinning: sessions are many and cells small, batches are what fills a core.

    Denormals stay numbers: flushing them is a state of the thread that runs the call, so a cell would give other
    bits in the event loop's thread than in its own.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its errors reach us as exceptions; a client's bad input shall not fill the log
    options.use_deterministic_compute = True  # on a device: the same bits from run to run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options
