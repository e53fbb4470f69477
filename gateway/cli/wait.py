"""The command `aos-gateway wait`: watch one execution until it has ended."""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gateway.cli.arguments import complain
from gateway.cli.client import Client, NoResponseError, Response, TooLargeError, connect
from gateway.cli.wait_pace import Pace
from gateway.cli.wait_report import Progress, Report, elapsed, progress_of
from gateway.config.address import Address, UpstreamUrl, address_of, upstream_url_of
from gateway.config.errors import ConfigError, InvalidValue, one_line, shorten, shown_as
from gateway.config.secret import Secret
from gateway.config.sources import secret_in_file
from gateway.core.aos.execution import Unreadable, decode_deciding
from gateway.core.caching.policy import DELETE
from gateway.core.http.messages import first
from gateway.tasks import TaskSet

# nginx and most balancers cut at 60 seconds.
_LONGEST_WAIT_S: Final = 50
_RESPONSE_S: Final = 30.0
_MAX_ID_CHARACTERS: Final = 64
_MAX_TIMEOUT_S: Final = 30 * 86_400.0
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,3})?)s?)?", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Outcome(Enum):
    """How the command ends; the value is its exit code."""

    SUCCEEDED = 0
    ERROR = 1
    FAILED = 3
    CANCELLED = 4
    TIME_OVER = 5
    GONE = 6
    REFUSED = 7


_ENDS: Final = {
    "Succeeded": Outcome.SUCCEEDED,
    "Failed": Outcome.FAILED,
    "Cancelled": Outcome.CANCELLED,
    "ForceCancelled": Outcome.CANCELLED,
}


class WaitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to wait for, and how; with `as_json` all but one JSON object goes to standard error."""

    gateway: UpstreamUrl | Address
    stack_id: str
    action_id: str
    token: Secret
    timeout_s: float
    as_json: bool


def read_options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> WaitOptions:
    """Check arguments and environment; a `ConfigError` has the option and the remedy, but not the token."""
    ids, token_file = (arguments.stack_id, arguments.action_id), arguments.token_file
    for name, value in zip(("STACK", "ACTION"), ids, strict=True):
        if not 1 <= len(value) <= _MAX_ID_CHARACTERS or value in {".", ".."}:
            raise ConfigError(f"{name} has to be an id of 1 to {_MAX_ID_CHARACTERS} characters")
    try:
        with shown_as(shorten(arguments.gateway)):
            read = address_of if arguments.gateway.startswith("unix:") else upstream_url_of
            url = read(arguments.gateway)
    except InvalidValue as exc:
        raise ConfigError(f"--gateway {exc.value} {exc.remedy}") from exc
    token = environ.get("AOS_TOKEN", "")
    if token_file is not None:
        token = secret_in_file("--token-file", token_file)
    if not token:
        raise ConfigError("a token is missing; set the environment variable AOS_TOKEN or give --token-file F")
    if not _TOKEN.fullmatch(token):
        where = "AOS_TOKEN" if token_file is None else "the file of --token-file"
        raise ConfigError(f"{where} holds a character that no token has; write the token alone into it")
    return WaitOptions(
        gateway=url,
        stack_id=ids[0],
        action_id=ids[1],
        token=Secret(token),
        timeout_s=_duration_s(arguments.timeout),
        as_json=arguments.json,
    )


def run(options: WaitOptions) -> int:
    """Wait for the end; print what changes, and the end; return the exit code, a value of `Outcome`."""
    report = Report(sys.stderr if options.as_json else sys.stdout)
    watch = Watch(options, report)
    try:
        outcome, line = asyncio.run(watch.until_end())
    finally:
        report.close()
    if options.as_json:
        print(msgspec.json.encode(watch.result(outcome, line)).decode())
    if outcome not in _ENDS.values():
        complain(line)
    elif not options.as_json:
        print(one_line(line))
    return outcome.value


class Watch:
    """Polls one execution until it has ended."""

    def __init__(self, options: WaitOptions, report: Report) -> None:
        self._options = options
        self._report = report
        stack_id, action_id = (quote(each, safe="") for each in (options.stack_id, options.action_id))
        self._path = f"/v2/stacks/{stack_id}/actions/{action_id}"
        self._pace = Pace()
        self._body = b""
        self._etag = ""
        self._progress: Progress | None = None
        self._is_delete = False
        self._trouble = ""

    async def until_end(self) -> tuple[Outcome, str]:
        """Wait for the end; return how it ended, and a line about it."""
        timeout_s = self._options.timeout_s
        tasks = TaskSet()
        tasks.start(self._report.keep_time(), "time")
        try:
            async with asyncio.timeout(timeout_s), connect(self._options.gateway) as client:
                while (end := await self._poll(client)) is None:
                    pass
                return end
        except TimeoutError:
            last = self._trouble or str(self._progress or "no answer")
            return Outcome.TIME_OVER, f"time over after {elapsed(timeout_s)}; last: {last}"
        finally:
            await tasks.cancel()

    def result(self, outcome: Outcome, line: str) -> dict[str, Any]:
        """Return what `--json` prints."""
        progress = self._progress or Progress()
        try:
            record = msgspec.json.decode(self._body)
        except (msgspec.DecodeError, RecursionError):
            record = None
        return {
            "stack_id": self._options.stack_id,
            "action_id": self._options.action_id,
            "outcome": outcome.name.lower(),
            "exit_code": outcome.value,
            "text": line,
            "phase": progress.phase or None,
            "progress": progress.percent,
            "elapsed_s": round(self._report.elapsed_s, 3),
            "record": record,
        }

    async def _poll(self, client: Client) -> tuple[Outcome, str] | None:
        """Send one request and sleep until the next is due; ``None`` while the execution has not ended."""
        began_s = time.monotonic()
        try:
            response = await self._get(client)
        except TooLargeError as exc:
            return Outcome.ERROR, f"{exc}; check --gateway"
        except NoResponseError as exc:
            self._trouble = f"no connection: {exc}"
            pause_s = self._pace.after_failure()
        else:
            end = self._end_by(response)
            if end is not None:
                return end
            pause_s = self._pace.after(response.status, response.fields, response.body, time.time())
        self._report.show(self._progress, self._trouble)
        await asyncio.sleep(max(0.0, began_s + pause_s - time.monotonic()))
        return None

    async def _get(self, client: Client) -> Response:
        fields = {"X-Auth-Token": self._options.token.reveal(), "Accept": "application/json"}
        # A delete's record has to be read before its 404, so nothing waits until there is one (RFC 7240).
        left_s = self._options.timeout_s - self._report.elapsed_s
        wait_s = min(_LONGEST_WAIT_S, int(left_s)) if self._body else 0
        if wait_s:
            fields["Prefer"] = f"wait={wait_s}"
        if self._etag:
            fields["If-None-Match"] = self._etag
        return await client.send("GET", self._path, fields, wait_s + _RESPONSE_S)

    def _end_by(self, response: Response) -> tuple[Outcome, str] | None:
        """Take in a response; ``None`` while the execution has not ended."""
        match response.status:
            case 200:
                return self._end_by_record(response)
            case 304 if self._body:
                self._trouble = ""
                return None
            case 404 if self._is_delete:
                return Outcome.SUCCEEDED, f"deleted after {elapsed(self._report.elapsed_s)}"
            case 404:
                return Outcome.GONE, "there is no such execution (404)"
            case 401 | 403 as status:
                return Outcome.REFUSED, f"the token is refused ({status}); it may have expired"
            case status if status == 429 or status >= 500:
                self._trouble = _status_line(status)
                return None
            case status:
                hint = "; a redirect is not followed" if 300 <= status < 400 else ""
                return Outcome.ERROR, f"unexpected answer: {_status_line(status)}{hint}; check --gateway"

    def _end_by_record(self, response: Response) -> tuple[Outcome, str] | None:
        record = decode_deciding(response.body)
        if isinstance(record, Unreadable):
            return Outcome.ERROR, f"the answer is no execution record ({record.value}); check --gateway"
        if response.body != self._body:
            self._pace.start_over()
        self._body = response.body
        self._etag = (first(response.fields, b"etag") or b"").decode("latin-1")
        self._progress = progress_of(response.body, record.phase)
        self._is_delete |= DELETE in record.action_names
        self._trouble = ""
        outcome = _ENDS.get(record.phase or "")
        if outcome is None:
            return None
        message = f": {self._progress.message}" if self._progress.message else ""
        return outcome, f"{record.phase} after {elapsed(self._report.elapsed_s)}{message}"


def _status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)


def _duration_s(text: str) -> float:
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total_s = hours * 3_600 + minutes * 60 + seconds
    if not 0 < total_s <= _MAX_TIMEOUT_S:
        raise ConfigError(
            f"--timeout {shorten(text)} is no time; write it like 20m, 90s or 1h30m, at most 720h"
        )
    return total_s
