"""The Cellwire server."""

import os

# Before anything imports onnxruntime: its wheels report to their maker otherwise, and a replica calls its store only.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
