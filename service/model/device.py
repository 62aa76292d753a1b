"""Where a graph's tensors lie and how a call of it runs there.

Knows ONNX Runtime's IO binding. Must not know sessions or rows: it takes arrays and fills arrays.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnxruntime

from service.model.layout import ALIGNMENT, Array, Tensors


class Host:
    """The memory of this process, from which a graph reads its feeds and into which it writes its answers.

    Binding them once costs less than handing them over at each call: 20 us against 45 for an LSTM of 128 units.
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
