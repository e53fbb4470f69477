"""How the gateway answers what never got to the handler, or failed in it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.http.errors import GatewayError
from gateway.downstream.request_id import RequestIds
from gateway.downstream.response import PreparedResponse
from gateway.errors import problem
from gateway.telemetry.access_log import AccessLog, Begun
from gateway.telemetry.metrics import Metrics


class Refusals(msgspec.Struct, frozen=True):
    """Makes such answers, counts them and has access lines written for them.

    Attributes:
        metrics: counts them.
        request_ids: names the requests.
        access_log: writes the lines.
    """

    metrics: Metrics
    request_ids: RequestIds
    access_log: AccessLog

    def reply(
        self,
        error: GatewayError,
        begun: Begun,
        *,
        peer: bytes,
        write_timeout_s: float,
        linger: Callable[[], Awaitable[None]],
    ) -> PreparedResponse:
        """Return the last answer of a connection.

        Args:
            error: what to say.
            begun: what was read of the request.
            peer: the caller's address.
            write_timeout_s: how long the caller may take nothing.
            linger: waits for the caller to leave.
        """
        self.metrics.bad_requests[str(error.status)] += 1
        self.metrics.errors[error.code] += 1
        request_id = self.request_ids.fresh()
        head, body = problem(error, request_id)
        return PreparedResponse(
            head,
            method="GET",
            body=body,
            http_11=True,
            keep_alive=False,
            write_timeout_s=write_timeout_s,
            linger=linger,
            sent=functools.partial(self.access_log.refused, error, request_id, peer, begun),
        )
