"""The Cellwire server."""
