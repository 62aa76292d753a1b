"""The bare echo on gRPC as the service runs it: the former listener, threads that wait for the core."""

import service  # noqa: F401  before grpc: it chooses the listener
from benchmarks.baselines import echo
from service import loop

if __name__ == "__main__":
    loop.run(echo.main())
