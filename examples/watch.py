#!/usr/bin/env python3
"""Watch an execution until it has ended, with the standard library.

AOS_TOKEN=... ./watch.py STACK ACTION [URL]

Exit codes: 0 Succeeded or deleted, 1 anything else, 2 wrong usage, 3 Failed, 4 Cancelled or ForceCancelled.
"""

import http.client
import json
import os
import sys
import time
from typing import Any
from urllib.parse import quote, urlsplit

ENDS = {"Succeeded": 0, "Failed": 3, "Cancelled": 4, "ForceCancelled": 4}
SHORTEST_S, LONGEST_S = 2.0, 10.0
TIMEOUT_S = 80.0
MAX_BYTES = 16 * 1024 * 1024

Response = tuple[int, http.client.HTTPMessage, bytes]


def send(url: str, fields: dict[str, str]) -> Response:
    """Send one request; redirects are not followed. Status 0 means no response."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers=fields)
        response = connection.getresponse()
        return response.status, response.headers, response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as exc:
        print(f"no response: {exc or type(exc).__name__}", file=sys.stderr)
        return 0, http.client.HTTPMessage(), b""
    finally:
        connection.close()


def member(value: Any, *names: str) -> Any:
    """Return what is inside, or None: parts of a record may be missing or null."""
    for name in names:
        value = (value or {}).get(name)
    return value


def watch(url: str, token: str) -> int:
    """Return the exit code that says how the execution ended."""
    known = etag = ""
    is_delete = False
    pause_s = SHORTEST_S
    while True:
        began_s = time.monotonic()
        fields = {"X-Auth-Token": token}
        # The first request is plain; the next ones wait until the record changes.
        if known:
            fields["Prefer"] = "wait=50"
        if etag:
            fields["If-None-Match"] = etag
        status, head, body = send(url, fields)
        if status == 200:
            text = body.decode()
            record = json.loads(text)
            phase = member(record, "status", "objectStatus", "phase")
            if text != known:
                print(f"{time.strftime('%X')} {phase or 'no status yet'}", flush=True)
                pause_s = SHORTEST_S
            if phase in ENDS:
                return ENDS[phase]
            known, etag = text, head.get("ETag", "")
            is_delete = member(record, "spec", "actionName") == "delete"
        elif status == 404 and is_delete:
            print(f"{time.strftime('%X')} deleted")
            return 0
        elif status in (0, 429) or status >= 500:
            print(f"{time.strftime('%X')} no record ({status}), retrying", file=sys.stderr)
        elif status != 304:
            print(f"unexpected status {status}", file=sys.stderr)
            return 1
        # After a response that waited, the next request is due at once; otherwise poll, more and more slowly.
        applied = head.get("Preference-Applied", "")
        if 200 <= status < 400 and applied.startswith("wait=") and applied != "wait=0":
            next_s = 1.0
        else:
            next_s, pause_s = pause_s, min(pause_s * 1.5, LONGEST_S)
        retry = head.get("Retry-After", "")
        if retry.isdecimal():
            next_s = max(next_s, min(int(retry[:4]), 60))
        time.sleep(max(0.0, began_s + next_s - time.monotonic()))


def main() -> int:
    token = os.environ.get("AOS_TOKEN")
    if len(sys.argv) not in (3, 4) or not token:
        print(f"usage: AOS_TOKEN=... {sys.argv[0]} STACK ACTION [URL]", file=sys.stderr)
        return 2
    stack, action = (quote(part, safe="") for part in sys.argv[1:3])
    base = sys.argv[3] if len(sys.argv) == 4 else "http://127.0.0.1:8080"
    return watch(f"{base}/v2/stacks/{stack}/actions/{action}", token)


if __name__ == "__main__":
    sys.exit(main())
