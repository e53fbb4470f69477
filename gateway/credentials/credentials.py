"""The one way on which a request without credentials is given the gateway's."""

import socket

from gateway.clock import Clock
from gateway.config.model import Config
from gateway.core.caching.identity import Identity, IdentityReader
from gateway.core.http.credentials import CredentialRules
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Request
from gateway.credentials.access_key import AccessKeySource
from gateway.credentials.password import Password
from gateway.credentials.token_file import TokenFile
from gateway.iam.client import IamClient
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog


class GatewayCredentials:
    """The credentials of one gateway, and the source where they come from.

    Args:
        iam: gives out tokens; ``None`` where it has no URL.
        own_hosts: what ``Host`` may say then; ``None`` lets it say anything.
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
        self._metrics, self._state = metrics, StateLog("credentials", clock)
        self.source: TokenFile | Password | AccessKeySource
        match config.credentials.source:
            case "token-file":
                self.source = TokenFile(config, self._tell, f"{socket.gethostname()} {config.server.listen}")
            case "password":
                assert iam is not None
                self.source = Password(config, iam, self._tell, clock)
            case _:
                self.source = AccessKeySource(config, clock)
        self._apply(config)

    def admit(self, request: Request) -> tuple[Request, Identity | None]:
        """Return a request as it goes on, and whose it is when it is to be given the gateway's credentials.

        Raises `MessageError` where it may not go upstream.
        """
        request = self._rules.sort(request)
        return request, self._identity if request.lent else None

    def change(self, config: Config) -> None:
        """Use other settings, and try again what has failed."""
        self.source.change(config)
        self._apply(config)

    def age_s(self) -> float:
        """Return the age of the token in use, seconds; 0 without one."""
        since_s = self.source.since_s
        return 0.0 if since_s is None else max(0.0, self._clock.wall_s() - since_s)

    def _tell(self, outcome: str, why_not: str) -> None:
        """Count and log a renewal: ``renewed``, ``refused`` or ``failed``."""
        self._metrics.credential_renewals[outcome] += 1
        if why_not:
            self._state.down(why_not)
        else:
            self._state.up()

    def _apply(self, config: Config) -> None:
        credentials, lent = config.credentials, self.source.description()
        self._rules = CredentialRules(
            self._identity_reader.names,
            credentials.allow,
            self._own_hosts,
            credentials.client_token.reveal().encode("ascii"),
            lent,
        )
        self._identity = self._identity_reader.configured(*lent)
