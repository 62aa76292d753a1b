"""Triton's Python back end with the same model: a batch a call, the state of each slot in memory.

The direct sequence batcher gives each sequence a slot of the batch for its life; slots without a request come as empty
ones, whose READY is 0. Runs in Triton's own process for Python, which brings triton_python_backend_utils.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        layers, _, hidden = self.session.get_inputs()[1].shape
        slots = 1024
        self.hidden = np.zeros((layers, slots, hidden), np.float32)
        self.cell = np.zeros((layers, slots, hidden), np.float32)

    def execute(self, requests):
        ready, rows = [], []
        for slot, request in enumerate(requests):
            if not utils.get_input_tensor_by_name(request, "READY").as_numpy()[0, 0]:
                continue
            ready.append(slot)
            rows.append(utils.get_input_tensor_by_name(request, "x").as_numpy())
            if utils.get_input_tensor_by_name(request, "START").as_numpy()[0, 0]:
                self.hidden[:, slot] = 0.0
                self.cell[:, slot] = 0.0
        feeds = {"x": np.concatenate(rows), "hidden": self.hidden[:, ready], "cell": self.cell[:, ready]}
        y, hidden, cell = self.session.run(["y", "hidden_out", "cell_out"], feeds)
        self.hidden[:, ready], self.cell[:, ready] = hidden, cell
        place = {slot: at for at, slot in enumerate(ready)}
        # a slot without a request needs a response of its own, too: one object for all of them crashes Triton
        nothing = np.zeros((1, y.shape[1]), np.float32)
        return [
            utils.InferenceResponse([utils.Tensor("y", y[place[slot], None] if slot in place else nothing)])
            for slot in range(len(requests))
        ]
