"""The one place where the keys of sessions are named."""


def session_key(tenant: str, session: str) -> bytes:
    """Of a session. The braces keep it in one slot of a cluster."""
    return f"cw:{{{tenant}/{session}}}".encode()


def session_of(key: bytes) -> str:
    """The id of which `session_key` made the key; of a key that it did not make, something that it makes another of."""
    return key.partition(b"/")[2][:-1].decode(errors="replace")
