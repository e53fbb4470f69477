"""``check --probe``, ``--iam`` and ``--redis``: ask once as the gateway would, and say what came back."""

import asyncio
import json
import sys

from gateway.app.settings import identity_headers, policy_rules, redis_settings, upstream_hop
from gateway.clock import Clock
from gateway.config.model import Config
from gateway.config.redis_url import masked_redis_url
from gateway.config.secret import Secret
from gateway.core.aos.iam_token import token_owner
from gateway.core.caching import policy
from gateway.core.caching.eligibility import Bypass, eligibility
from gateway.core.caching.hints import hint
from gateway.core.caching.identity import IdentityReader
from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import BodyFraming
from gateway.core.http.messages import Request
from gateway.core.http.proxy_identity import upstream_fields
from gateway.iam.client import IamClient, IamError
from gateway.runtime.event_loop import check_parser
from gateway.runtime.tls import iam_context, upstream_context
from gateway.store import redis_check
from gateway.telemetry.metrics import Metrics
from gateway.upstream.upstream import Upstream

_MAX_SHOWN = 100


async def probe(config: Config, stack_id: str, action_id: str, *, token: Secret) -> int:
    """Fetch a record with a token as ``X-Auth-Token``, and print whether it would be stored and why.

    Returns the exit code: 1 when the upstream did not answer.
    """
    check_parser()
    try:
        target = f"/v2/stacks/{stack_id}/actions/{action_id}".encode("ascii")
        field = (b"X-Auth-Token", token.reveal().encode("ascii"))
    except UnicodeEncodeError:
        return _complain("STACK, ACTION and AOS_TOKEN can hold ASCII characters only")
    request = Request("GET", target, (field,), b"unknown", b"http", 0, b"probe")
    eligible = eligibility(request, IdentityReader(identity_headers(config), b"", shared=False))
    if isinstance(eligible, Bypass):
        return _complain(f"STACK and ACTION are not ids the cache takes (detail={eligible.reason.value})")
    proxy = upstream_hop(config)
    clock = Clock()
    rules = policy_rules(config)
    upstream = Upstream(config.upstream, upstream_context(config.upstream), clock, Metrics())
    fetched_s = clock.wall_s()
    try:
        async with asyncio.timeout(config.upstream.total_timeout_s):
            fields = upstream_fields(request, proxy, execution_call=True)
            exchange = await upstream.send("GET", target, fields, None)
            body = bytearray()

            def take(piece: bytes) -> bool:
                body.extend(piece)
                return len(body) <= rules.max_body_bytes

            await exchange.pass_on(take)
            exchange.close()
    except GatewayError as error:
        return _complain(f"{config.upstream.url}: {error.detail} ({error.proxy_error})")
    except TimeoutError:
        return _complain(f"{config.upstream.url}: no answer within upstream.total_timeout_s")
    finally:
        await upstream.close()
    complete = exchange.reader.framing is not BodyFraming.CLOSE
    fetched_response = policy.FetchedResponse(
        exchange.head, bytes(body), complete, eligible.fields, action_id.encode(), fetched_s
    )
    decision = policy.decide_store(fetched_response, rules, settling=False, uncertain=False)
    print(f"{config.upstream.url} answered {exchange.head.status}, {len(body)} bytes in body")
    print(f"phase: {decision.phase if decision.phase is not None else 'none'}")
    if decision.reason is None:
        print(f"would be stored for {decision.ttl_s:.0f} s")
    else:
        print(f"would not be stored: {decision.reason.value}")
        if (text := hint(fetched_response, decision, rules)) is not None:
            print(text)
    return 0


async def ask_iam(config: Config, *, token: Secret) -> int:
    """Ask IAM whose a token is, and print what came back; the exit code is 1 when that names no user."""
    if not config.iam.url:
        return _complain('--iam needs iam.url; set it, like "https://iam.eu-west-101.myhuaweicloud.eu"')
    client = IamClient(config.iam, iam_context(config.iam))
    try:
        answer = await client.verify(token.reveal().encode("utf-8"))
    except IamError as error:
        return _complain(f"{config.iam.url}: no answer ({error.kind})")
    finally:
        await client.close()
    owner = token_owner(answer.body) if answer.status == 200 else None
    if owner is None:
        return _complain(f"{config.iam.url} answered {answer.status} and named no user")
    described = json.loads(answer.body)["token"]
    print(f"{config.iam.url} answered {answer.status}, {len(answer.body)} bytes in body")
    for name in ("user", "project", "domain"):
        if isinstance(part := described.get(name), dict):
            print(f"{name}: {_shown(part.get('name'))} ({_shown(part.get('id'))})")
    print(f"roles: {len(described.get('roles') or ())}")
    print(f"caller: {owner.user.hex()[:12]}, the same for all tokens that IAM describes so")
    print(f"ends: {_shown(described.get('expires_at'))}")
    return 0


async def try_redis(config: Config) -> int:
    """Try what the gateway sends to Redis, and print what is refused; the exit code is 1 then."""
    settings = redis_settings(config, policy_rules(config))
    if settings is None:
        return _complain("--redis needs redis.url; set it, like redis://host:6379/0")
    attempts = await redis_check.try_redis(settings, config.redis.prefix)
    print(masked_redis_url(config.redis.url))
    for server in dict.fromkeys(attempt.server for attempt in attempts):
        tried = [attempt for attempt in attempts if attempt.server == server]
        refused = [attempt for attempt in tried if attempt.refusal]
        for attempt in refused:
            what = f"{attempt.command} is refused" if attempt.command else "cannot be used"
            print(f"{server}: {what}: {attempt.refusal}")
        if not refused:
            print(f"{server}: {', '.join(attempt.command for attempt in tried)} are allowed")
    return 1 if any(attempt.refusal for attempt in attempts) else 0


def _shown(value: object) -> str:
    return "".join(character for character in str(value)[:_MAX_SHOWN] if character.isprintable())


def _complain(text: str) -> int:
    print(f"aos-gateway check: {text}", file=sys.stderr)
    return 1
