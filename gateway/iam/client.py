"""Questions to IAM, over connections of their own."""

import ssl

import aiohttp
import msgspec
from yarl import URL

from gateway.config.model import IamConfig
from gateway.core.aos.iam_token import MAX_BYTES

_TOKENS = "/v3/auth/tokens?nocatalog=true"
# A token in a field has several kilobytes.
_MAX_FIELD_BYTES = 65_536


class IamError(Exception):
    """IAM gave no answer; the kind is ``timeout``, ``tls``, ``unreachable`` or ``malformed``."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class IamAnswer(msgspec.Struct, frozen=True):
    """An answer of any status, its body as received; the token that was issued is empty without one."""

    status: int
    body: bytes
    token: bytes
    retry_after: bytes | None

    def __repr__(self) -> str:
        # The rest may hold a token.
        return f"IamAnswer(status={self.status})"


class IamClient:
    """Asks IAM (API pages "Verifying a token" and "Obtaining a user token through password authentication").

    Follows no redirect, keeps no cookie and heeds no proxy of the environment.

    Attributes:
        tls: for connections that are opened from now on; ``None`` for plain ones, on loopback alone.
    """

    def __init__(self, config: IamConfig, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._url = URL(config.url.rstrip("/") + _TOKENS, encoded=True)
        self._session = aiohttp.ClientSession(
            # What comes late on a connection would be taken for the answer about the next token. Their number
            # is bounded by how often is asked, and for how long: nothing waits for a slow answer to another.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=config.timeout_s),
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "aos-gateway",
            },
            auto_decompress=False,
            trust_env=False,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
        )

    async def verify(self, token: bytes) -> IamAnswer:
        """Ask whose a token is, with that token; raise `IamError` without an answer."""
        text = token.decode("latin-1")
        return await self._ask("GET", {"X-Auth-Token": text, "X-Subject-Token": text})

    async def issue(self, body: bytes) -> IamAnswer:
        """Ask for a token; the JSON says for whom, password included; raise `IamError` without an answer."""
        return await self._ask("POST", {"Content-Type": "application/json"}, body)

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, method: str, fields: dict[str, str], body: bytes | None = None) -> IamAnswer:
        # What the library says may quote what was sent.
        try:
            async with self._session.request(
                method, self._url, headers=fields, data=body, allow_redirects=False, ssl=self.tls or True
            ) as response:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise IamError("malformed")
                # One that is longer than any answer is cut there, and then is none.
                content = b""
                while len(content) <= MAX_BYTES and (data := await response.content.readany()):
                    content += data
                token = response.headers.get("X-Subject-Token", "")
                retry_after = response.headers.get("Retry-After")
                return IamAnswer(
                    response.status,
                    content,
                    token.encode("utf-8", "surrogateescape"),
                    None if retry_after is None else retry_after.encode("utf-8", "surrogateescape"),
                )
        except TimeoutError:
            raise IamError("timeout") from None
        except aiohttp.ClientSSLError:
            raise IamError("tls") from None
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, ValueError):
            raise IamError("malformed") from None
        except (aiohttp.ClientError, OSError):
            raise IamError("unreachable") from None
