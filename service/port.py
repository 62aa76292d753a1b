"""The port that several workers share. Knows sockets, not who listens.

The kernel spreads new connections over all sockets that listen on a port with SO_REUSEPORT. It lets processes of one
user share a port so, and nobody else in.
"""

import socket


def hold(host: str, port: int) -> socket.socket:
    """Binds a port for others of this user to listen on; itself it never listens, so that no connection comes to it.

    Args:
        host: a name or an address, that of IPv6 in brackets, as gRPC wants it.
        port: 0: any free one.

    Raises:
        OSError: somebody has the port, were it only one who would share it.
    """
    # Who would share the port is not seen by one who would too: so it is asked for alone first.
    _bind(host, port, reuse=True, share=False).close()
    try:
        # Without SO_REUSEADDR, so that the first bind of another holder fails before anybody listens here.
        return _bind(host, port, reuse=False, share=True)
    except OSError:  # old connections that linger there
        return _bind(host, port, reuse=True, share=True)


def _bind(host: str, port: int, *, reuse: bool, share: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
