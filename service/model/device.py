"""Where a graph's tensors lie when it runs: in the memory of this process, or of a device.

Knows ONNX Runtime's IO binding. Must not know sessions or rows: it takes arrays and fills arrays.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnxruntime

from service.model.layout import ALIGNMENT, Array, Tensors


class Host:
    """The memory of this process: a graph on the CPU reads its feeds there and writes its answers there.

    Bound once, a call costs less than one that is handed its arrays: 20 us against 31 for an LSTM of 128 units.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, int], Array] = {}

    def block(self, role: str, nbytes: int) -> Array:
        """At least so many bytes, the same ones for all calls of about that size: only one of them runs at a time."""
        size = max(ALIGNMENT, 1 << (nbytes - 1).bit_length())
        found = self._blocks.get((role, size))
        if found is None:
            found = self._blocks[role, size] = np.zeros(size, np.uint8)
        return found

    def bind(
        self, session: onnxruntime.InferenceSession, feeds: Tensors, fixed: Mapping[str, Array], answers: Tensors
    ) -> Callable[[], None]:
        """What runs the graph on what is in `feeds` and `fixed` by then, and leaves what it says in `answers`.

        It raises what ONNX Runtime raises, also where the graph answers in another shape than `answers` has.
        """
        binding = session.io_binding()
        for name, array in (*feeds.arrays.items(), *fixed.items()):
            binding.bind_cpu_input(name, array)
        for name, array in answers.arrays.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return partial(session.run_with_iobinding, binding)


class Device(Host):
    """The memory of a device beside the host's: one transfer there before a graph runs, one back after it."""

    def __init__(self, kind: str, index: int) -> None:
        """`kind` and `index` as ONNX Runtime has them: "cuda" and the number of the device."""
        super().__init__()
        self._place = kind, index
        self._mirrors: dict[int, onnxruntime.OrtValue] = {}

    def bind(
        self, session: onnxruntime.InferenceSession, feeds: Tensors, fixed: Mapping[str, Array], answers: Tensors
    ) -> Callable[[], None]:
        """As on the host; `feeds` and `answers` are the host's sides of the two transfers."""
        there, back = self._mirror(feeds.block), self._mirror(answers.block)
        binding = session.io_binding()
        for name, array in fixed.items():
            binding.bind_cpu_input(name, array)
        for name, array in answers.arrays.items():
            address = back.data_ptr() + answers.starts[name]
            binding.bind_output(name, *self._place, array.dtype, array.shape, address)

        def run() -> None:
            there.update_inplace(feeds.block)
            for name, array in feeds.arrays.items():
                # at each call: what a node on the CPU reads is copied back to it here, and never again
                address = there.data_ptr() + feeds.starts[name]
                binding.bind_input(name, *self._place, array.dtype, array.shape, address)
            session.run_with_iobinding(binding)
            answers.block[:] = back.numpy()

        return run

    def _mirror(self, block: Array) -> onnxruntime.OrtValue:
        """The device's side of a block of the host's."""
        key = block.ctypes.data
        if key not in self._mirrors:
            self._mirrors[key] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(block.shape, np.uint8, *self._place)
        return self._mirrors[key]


def where(session: onnxruntime.InferenceSession) -> Host:
    """The memory in which this session's provider computes."""
    cuda = session.get_provider_options().get("CUDAExecutionProvider")
    return Host() if cuda is None else Device("cuda", int(cuda["device_id"]))
