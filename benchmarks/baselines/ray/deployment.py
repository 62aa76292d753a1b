"""A Ray Serve deployment with the same model behind Ray's gRPC proxy: one sequence a request, its state in memory.

python deployment.py MODEL.onnx PORT HTTP_PORT
"""

import os
import signal
import sys
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions


def add_to_server(servicer, server):
    """As generated code does: the method `step` of the service benchmarks.Cell."""
    step = grpc.unary_unary_rpc_method_handler(servicer.step, BytesValue.FromString, BytesValue.SerializeToString)
    handlers = {"step": step}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Cell", handlers),))


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
class Cell:
    def __init__(self, model):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        layers, _, hidden = self.session.get_inputs()[1].shape
        self.start = [np.zeros((layers, 1, hidden), np.float32)] * 2
        self.states = {}

    async def step(self, request):
        sequence, x = request.value[:8], np.frombuffer(request.value, np.float32, offset=8)[np.newaxis]
        hidden, cell = self.states.get(sequence, self.start)
        y, *self.states[sequence] = self.session.run(
            ["y", "hidden_out", "cell_out"], {"x": x, "hidden": hidden, "cell": cell}
        )
        return BytesValue(value=y.tobytes())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    port, http_port = map(int, sys.argv[2:])
    doors = gRPCOptions(port=port, grpc_servicer_functions=["deployment.add_to_server"])
    serve.start(http_options={"host": "127.0.0.1", "port": http_port}, grpc_options=doors)
    serve.run(Cell.bind(sys.argv[1]))
    Path(os.environ["CELLWIRE_PORT_FILE"]).write_text(f"{port}\n")
    signal.sigwait({signal.SIGTERM})
    ray.shutdown()
