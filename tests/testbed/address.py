"""Addresses as the product writes them, and free ports."""

import asyncio
import random
import socket
import ssl

# Below the range from which Linux (32768) and macOS (49152) take source ports: a client that keeps
# dialling a closed port inside that range can end up connected to itself and keep the port taken.
_PORTS = range(15000, 32000)


def split(address: str) -> str | tuple[str, int]:
    """Take an address apart.

    Args:
        address: `host:port`, `[v6]:port` or `unix:/path`.

    Returns:
        The path of a Unix socket, or host and port.
    """
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """Write host and port as one address, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free_port(host: str = "127.0.0.1") -> int:
    """Find a TCP port without a listener that no client gets as its source port."""
    for port in random.sample(_PORTS, 200):
        if _can_bind(host, port):
            return port
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


async def connect(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    source: str | None = None,
    timeout_s: float = 5.0,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream to an address.

    Args:
        address: as for `split`.
        tls: context of a TLS client; None speaks plainly.
        server_hostname: the name to check in the certificate; None takes the host.
        source: the own IP address to connect from; None lets the system choose.
        timeout_s: deadline in seconds.
    """
    where = split(address)
    async with asyncio.timeout(timeout_s):
        if isinstance(where, str):
            name = server_hostname or ("localhost" if tls else None)
            return await asyncio.open_unix_connection(where, ssl=tls, server_hostname=name)
        local = (source, 0) if source is not None else None
        return await asyncio.open_connection(
            *where, ssl=tls, server_hostname=server_hostname, local_addr=local
        )
