"""An MLServer runtime with the same model: one sequence a request, its state in memory."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(self.settings.parameters.uri)
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        layers, _, hidden = self._session.get_inputs()[1].shape
        self._start = np.zeros((layers, 1, hidden), np.float32)
        self._states = {}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        parameters = payload.parameters.model_extra
        sequence = parameters["sequence_id"]
        start = (self._start, self._start)
        hidden, cell = start if parameters["sequence_start"] else self._states[sequence]
        x = NumpyCodec.decode_input(payload.inputs[0])
        y, *state = self._session.run(["y", "hidden_out", "cell_out"], {"x": x, "hidden": hidden, "cell": cell})
        self._states[sequence] = state
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
