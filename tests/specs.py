"""A ModelSpec without a graph, for what only needs the contract."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.values import InputSpec, ModelSpec, StateSpec, TensorSpec

F32, I64 = np.dtype("<f4"), np.dtype("<i8")


def spec(
    inputs: Sequence[InputSpec] = (InputSpec("x", F32, (3,)),),
    outputs: Sequence[TensorSpec] = (TensorSpec("y", F32, (2,)),),
    state: Sequence[StateSpec] = (StateSpec("h", F32, (4,), output="h_out", initial=bytes(16)),),
    **fields: Any,
) -> ModelSpec:
    """A model of these tensors."""
    values: dict[str, Any] = {
        "name": "m",
        "version": "1",
        "digest": b"d" * 16,
        "constants": (),
        "fixed": (),
        "gates": (),
        "max_batch": 8,
        "time_axis": None,
        "idle_ttl": None,
        "write_behind": False,
        "provider": "CPUExecutionProvider",
        **fields,
    }
    return ModelSpec(inputs=tuple(inputs), outputs=tuple(outputs), state=tuple(state), **values)
