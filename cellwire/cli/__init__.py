"""The command line `cellwire`: the only part of the client's package that knows the service and the models."""


def main() -> None:
    """Entry point."""
    import service  # noqa: F401  sets what gRPC reads when it is imported
    from cellwire.cli.app import app  # what a command needs is imported by that command

    app()
