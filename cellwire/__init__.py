"""Client library of Cellwire: streams whose recurrent state survives."""

__version__ = "0.1.0"
