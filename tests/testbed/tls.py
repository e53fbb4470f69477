"""Certificates of a throw-away authority, for TLS on loopback."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trustme


class Authority:
    """A certificate authority that lives for one test run.

    Attributes:
        ca_file: its certificate, for clients that take a CA file.
    """

    def __init__(self, folder: Path) -> None:
        """Args: folder: an existing folder for the files."""
        self._ca = trustme.CA()
        self._folder = folder
        self.ca_file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca_file)

    def server_context(self, *names: str, wants_client: bool = False) -> ssl.SSLContext:
        """A server context for these host names or addresses (127.0.0.1 and localhost by default).

        Args:
            names: what the certificate is for.
            wants_client: reject clients without a certificate of this authority.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client_context(self, *, shows: str = "") -> ssl.SSLContext:
        """A client context that trusts this authority alone.

        Args:
            shows: whose certificate it shows to a server that requests one; "" for none.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if shows:
            self._ca.issue_cert(shows).configure_cert(context)
        return context

    def files(self, name: str) -> tuple[Path, Path]:
        """Make a certificate and its key as PEM files, certificate first.

        Args:
            name: a host name or address; also the beginning of the file names.
        """
        issued = self._ca.issue_cert(name)
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@asynccontextmanager
async def tls_in_front(target: str, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speak TLS in front of a plain address, on the returned port."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, int(port))
        for one, other in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(copy(one, other))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
