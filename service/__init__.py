"""The Cellwire server."""

import os

# Before anything imports onnxruntime: its wheels report to their maker otherwise, and a replica calls its store only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Before anything imports grpc: its newer listener hands each message from thread to thread, a sixth of what it costs.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
