"""The command line `cellwire`: the only part of the client's package that knows the service and the models."""

import sys


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["serve"]:
        import service  # noqa: F401  sets what gRPC reads when it is imported; clients are left alone
    from cellwire.cli.app import app  # what a command needs is imported by that command

    app()
