"""Is a replica alive, or ready? For health checks of containers that have no shell and no curl.

Stands alone: it imports nothing of the service, so that a probe costs no more than gRPC itself.
`python -m service.probe` asks for readiness, `python -m service.probe liveness` for liveness.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0


def serving(target: str, service: str) -> bool:
    """True if the server at `target` says SERVING for `service` in time; no answer is a no."""
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    # The one setting it needs is read here and not from service.settings, which would import pydantic.
    port = os.environ.get("CELLWIRE_PORT", "50051")
    sys.exit(0 if serving(f"127.0.0.1:{port}", "".join(sys.argv[1:2])) else 1)
