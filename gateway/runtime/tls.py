"""TLS contexts from the configured files."""

import ssl

from gateway.config.errors import ConfigError, shorten
from gateway.config.model import Config, IamConfig, RedisConfig, ServerConfig, UpstreamConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """Return the context for callers' connections; ``None`` for plain ones.

    Requires TLS 1.2, and with ``tls_client_ca`` a client certificate of that authority.
    """
    if not server.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation costs the server more CPU than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, ("server.tls_cert", server.tls_cert), ("server.tls_key", server.tls_key))
    if server.tls_client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, "server.tls_client_ca", server.tls_client_ca)
    return context


def upstream_context(upstream: UpstreamConfig) -> ssl.SSLContext | None:
    """Return the context for connections to the upstream; ``None`` for plain ones."""
    if upstream.url.scheme != "https":
        # Loading the system's certificates takes 20 ms.
        return None
    context = _client_context("upstream.ca_file", upstream.ca_file)
    if upstream.client_cert:
        cert = "upstream.client_cert", upstream.client_cert
        _load_pair(context, cert, ("upstream.client_key", upstream.client_key))
    return context


def redis_context(redis: RedisConfig) -> ssl.SSLContext | None:
    """Return the context for connections to Redis; ``None`` for plain ones."""
    if not redis.url.reveal().startswith("rediss"):
        return None
    return _client_context("redis.ca_file", redis.ca_file)


def iam_context(iam: IamConfig) -> ssl.SSLContext | None:
    """Return the context for connections to IAM; ``None`` for plain ones."""
    return _client_context("iam.ca_file", iam.ca_file) if iam.url.startswith("https:") else None


def check_files(config: Config) -> None:
    """Raise `ConfigError` unless certificates, keys and authorities can be used."""
    server_context(config.server)
    if config.upstream.client_cert:
        upstream_context(config.upstream)


def _client_context(name: str, ca_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        _load_authorities(context, name, ca_file)
    else:
        context.load_default_certs()
    return context


def _load_pair(context: ssl.SSLContext, cert: tuple[str, str], key: tuple[str, str]) -> None:
    """Load two files, each given by its setting's name and its path."""
    names = f"{cert[0]} = {shorten(cert[1])} with {key[0]} = {shorten(key[1])}"
    try:
        context.load_cert_chain(cert[1], key[1], password=_no_password)
    except _EncryptedError as exc:
        raise ConfigError(f"{names}: the key is encrypted; give one without a password") from exc
    except ssl.SSLError as exc:
        why = "are no pair" if exc.reason == "KEY_VALUES_MISMATCH" else "hold no certificate and key"
        raise ConfigError(f"{names} {why}; name a PEM certificate chain and its PEM key") from exc
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no valid path"
        raise ConfigError(f"{names} can't be read ({reason}); name readable PEM files") from exc


def _load_authorities(context: ssl.SSLContext, name: str, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{name} = {shorten(path)} can't be used; name a readable PEM file") from exc


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    # OpenSSL would prompt on the terminal.
    raise _EncryptedError
