"""The one way on which a request without credentials is given the gateway's."""

from __future__ import annotations

import socket

from gateway.clock import Clock
from gateway.config.model import Config
from gateway.core.caching.identity import Identity, IdentityReader
from gateway.core.http.credentials import CredentialRules
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Fields, Request
from gateway.credentials.access_key import AccessKeySource
from gateway.credentials.password import Password
from gateway.credentials.source import Outcomes, Source
from gateway.credentials.token_file import TokenFile
from gateway.iam.client import IamClient
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog


class GatewayCredentials:
    """The credentials of one gateway.

    Args:
        config: where they come from, and who may use them.
        iam: gives out tokens; ``None`` where it has no URL.
        own_hosts: what ``Host`` may say then; ``None`` lets it say anything.
        identity_reader: names their owner in keys.
        clock: both clocks.
        metrics: counts renewals.
    """

    def __init__(
        self,
        config: Config,
        iam: IamClient | None,
        own_hosts: OwnHosts | None,
        *,
        identity_reader: IdentityReader,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._own_hosts = own_hosts
        self._identity_reader = identity_reader
        self._clock = clock
        outcomes = Outcomes(metrics, StateLog("credentials", clock))
        self._source: Source
        match config.credentials.source:
            case "token-file":
                self._source = TokenFile(config, outcomes, f"{socket.gethostname()} {config.server.listen}")
            case "password":
                assert iam is not None
                self._source = Password(config, iam, outcomes, clock)
            case _:
                self._source = AccessKeySource(config, clock)
        self.needs_body = self._source.needs_body
        self._apply(config)

    def admit(self, request: Request) -> tuple[Request, Identity | None]:
        """Return a request as it goes on, and whose it is when it is to be given the gateway's credentials.

        Raises:
            MessageError: it may not go upstream.
        """
        request = self._rules.sort(request)
        return request, self._identity if request.needs_credentials else None

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        """Return the field lines to add to a request; see `gateway.upstream.upstream.Credentials`."""
        return await self._source.fields(method, target, fields, body)

    async def renew(self, refused: Fields) -> bool:
        """Get others than those that got a 401; ``False`` where there are none yet."""
        return await self._source.renew(refused)

    def change(self, config: Config) -> None:
        """Use other settings, and try again what has failed."""
        self._source.change(config)
        self._apply(config)

    def gauges(self) -> dict[str, float]:
        """Return their state, named as in the catalogue of metrics."""
        since_s = self._source.since_s
        return {
            "credentials_unavailable": self._source.is_unavailable,
            "credentials_age_seconds": 0.0 if since_s is None else max(0.0, self._clock.wall_s() - since_s),
        }

    async def close(self) -> None:
        """Stop renewing."""
        await self._source.close()

    def _apply(self, config: Config) -> None:
        credentials = config.credentials
        self._rules = CredentialRules(
            self._identity_reader.names,
            credentials.allow,
            self._own_hosts,
            credentials.client_token.reveal().encode("ascii"),
        )
        self._identity = self._identity_reader.configured(*self._source.description())
