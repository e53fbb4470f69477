"""A scripted IAM on a real socket: says whose a token is, issues tokens, misbehaves by script."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from . import secrets
from .answers import Answer, AnyAnswer, Conversation, Received, chunk, close_unanswered, reset_unanswered
from .aos import ScriptedAos
from .payloads import ABSENT

Json = dict[str, Any]

TOKENS: Final = "/v3/auth/tokens"
_JSON: Final = ("Content-Type", "application/json; charset=UTF-8")


def moment(in_s: float = 0.0) -> str:
    """The time in so many seconds from now, as IAM writes it."""
    then = datetime.fromtimestamp(time.time() + in_s, UTC)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def word(
    user: str = "alice",
    project: str | None = "project-a",
    roles: tuple[str, ...] = ("te_admin", "secu_admin"),
    *,
    lives_s: float = 86_400.0,
    **changes: object,
) -> Json:
    """What IAM says of a token: the object under "token" (API page iam_30_0004).

    Args:
        user: name of the user, from which the id follows.
        project: name of the project, from which the id follows; None for a token of the whole account.
        roles: their names; all ids are "0", as in IAM's own examples.
        lives_s: seconds until it ends; negative for one that has ended.
        changes: other members by name; ABSENT leaves one out.
    """
    account = {"id": f"{'company':0>32}", "name": "company"}
    token: Json = {
        "expires_at": moment(lives_s),
        "issued_at": moment(lives_s - 86_400.0),
        "methods": ["password"],
        "roles": [{"id": "0", "name": role} for role in roles],
        "user": {
            "domain": account,
            "id": f"{user:0>32}",
            "name": user,
            "password_expires_at": "",
        },
    }
    if project is None:
        token["domain"] = account
    else:
        token["project"] = {"domain": account, "id": f"{project:0>32}", "name": project}
    return {name: value for name, value in (token | changes).items() if value is not ABSENT}


def said(word: Json, token: bytes = b"", status: int = 200) -> Answer:
    """IAM's answer about a token, or with 201 to a password."""
    return as_json({"token": word}, status, [("X-Subject-Token", token)] if token else [])


def as_json(value: object, status: int = 200, fields: list[tuple[str, str | bytes]] | None = None) -> Answer:
    """Any JSON as IAM would send it."""
    return Answer(status, headers=[_JSON, *(fields or [])], body=json.dumps(value).encode())


def refused(status: int = 401, message: str = "The token must be updated.", **fields: str) -> Answer:
    """IAM's own "no", such as 401, 403 or 404; `fields` are more of the head, `_` for `-`."""
    title = Answer(status).head().split(b"\r\n")[0].split(b" ", 2)[2].decode()
    error = {"error": {"code": status, "message": message, "title": title}}
    return as_json(error, status, [(name.replace("_", "-"), value) for name, value in fields.items()])


def throttled(**fields: str) -> Answer:
    """The 429 of the API gateway in front of IAM."""
    body = {"error_code": "APIGW.0308", "error_msg": "The throttling threshold has been reached"}
    return as_json(body, 429, [(name.replace("_", "-"), value) for name, value in fields.items()])


def odd_answers(word: Json) -> dict[str, AnyAnswer]:
    """Everything that is no usable word about a token, by name; most nearly say the given one.

    None of it may make a caller somebody, and none of it may hold up or fail a request.
    """
    good = json.dumps({"token": word}).encode()

    def ok(body: bytes, *fields: tuple[str, str]) -> Answer:
        return Answer(headers=[_JSON, *fields], body=body)

    def without(name: str) -> Answer:
        return as_json({"token": {key: value for key, value in word.items() if key != name}})

    def user(value: object) -> Answer:
        return as_json({"token": word | {"user": value}})

    twice = json.dumps(word).encode()
    return {
        "empty": ok(b""),
        "not JSON": ok(b"<html>welcome</html>"),
        "half": ok(good[: len(good) // 2]),
        "more behind it": ok(good + b"{}"),
        "byte order mark": ok(b"\xef\xbb\xbf" + good),
        "not UTF-8": ok(good.replace(b'"user": {', b'"user": {"x": "\xff", ', 1)),
        "UTF-16": ok(good.decode().encode("utf-16")),
        "null": ok(b"null"),
        "a list": ok(b"[" + good + b"]"),
        "no token": ok(b"{}"),
        "token is null": ok(b'{"token": null}'),
        "token is a list": ok(b'{"token": [' + twice + b"]}"),
        "token twice": ok(b'{"token": ' + twice + b', "token": ' + twice + b"}"),
        "user twice": ok(good.replace(b'"user": ', b'"user": {"id": "root"}, "user": ', 1)),
        "user id twice": ok(good.replace(b'"user": {', b'"user": {"id": "root", ', 1)),
        "a key twice, far down": ok(good.replace(b'"roles": [{', b'"roles": [{"id": "1", ', 1)),
        "a key twice, spelt otherwise": ok(
            good.replace(b'"user": ', b'"\\u0075ser": {"id": "root"}, "user": ', 1)
        ),
        "no user": without("user"),
        "user is null": user(None),
        "user is text": user("alice"),
        "no user id": user({"name": "alice"}),
        "user id is null": user({"id": None, "name": "alice"}),
        "user id is a number": user({"id": 7, "name": "alice"}),
        "user id is empty": user({"id": "", "name": "alice"}),
        "no end": without("expires_at"),
        "end is no time": as_json({"token": word | {"expires_at": "tomorrow"}}),
        "end is a number": as_json({"token": word | {"expires_at": 1e308}}),
        "has ended": as_json({"token": word | {"expires_at": moment(-1.0)}}),
        "not a number": ok(good[:-2] + b', "n": NaN}}'),
        "deep": ok(good[:-2] + b', "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"),
        "huge": ok(good[:-2] + b', "n": "' + b"x" * 300_000 + b'"}}'),
        "huge, in chunks": Answer(
            headers=[_JSON], framing="chunked", chunks=[good[:-2] + b', "n": "', *[b"x" * 50_000] * 6, b'"}}']
        ),
        "endless": _endless,
        "compressed that is not": ok(good, ("Content-Encoding", "gzip")),
        "201": as_json({"token": word}, 201),
        "203": as_json({"token": word}, 203),
        "204": Answer(204),
        "206": as_json({"token": word}, 206),
        "redirect": Answer(302, headers=[("Location", f"{TOKENS}?nocatalog=true"), _JSON], body=good),
        "401": refused(401),
        "403": refused(
            403, "You are not authorized to perform the requested action: identity:validate_token"
        ),
        "404": refused(404, "Could not find token."),
        "400": refused(400, "Request body is invalid."),
        "429": throttled(),
        "429 for an hour": throttled(Retry_After="3600"),
        "500": refused(500, "An unexpected error occurred."),
        "502 of a balancer": Answer(502, headers=[("Content-Type", "text/html")], body=b"<html>502</html>"),
        "503": refused(503, "Service unavailable.", Retry_After="1"),
        "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        "no HTTP": b"hello\r\n\r\n",
        "closed": close_unanswered,
        "reset": reset_unanswered,
        "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n" + good,
        "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: %d\r\n\r\n%b"
        % (len(good), good),
    }


async def _endless(_: Received, conversation: Conversation) -> None:
    """Send a body without end until the caller has gone (64 MB at most)."""
    await conversation.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"token": {"n": "')
    )
    for _piece in range(1_000):
        await conversation.send(chunk(b"x" * 64_000))
    conversation.close()


class ScriptedIam(ScriptedAos):
    """A real server that answers for IAM; what `on` and `queue` script comes before what it knows by itself.

    Unscripted it says of each token what `add` told it, 404 of any other, and 401 to a token in X-Auth-Token
    that it does not know. A password of `accounts` gets a new token, any other 401.

    Attributes:
        accounts: passwords by domain and user name.
        about: what is answered about a token; `add` and `remove` change it.
        asked: how often each token was asked about, by complete requests.
        logins: how many passwords were sent, right or wrong.
        issued: the tokens that it made for passwords, oldest first.
        lives_s: how long those live, seconds.
        roles: the names of their roles.
        token_bytes: their length.
    """

    def __init__(self, **settings: Any) -> None:
        """Prepare a server that knows nobody; `settings` are those of `ScriptedAos`."""
        super().__init__(**settings)
        self.accounts: dict[tuple[str, str], str] = {}
        self.about: dict[bytes, AnyAnswer] = {}
        self.asked: Counter[bytes] = Counter()
        self.logins = 0
        self.issued: list[bytes] = []
        self.lives_s = 86_400.0
        self.roles: tuple[str, ...] = ("te_admin", "secu_admin")
        self.token_bytes = 4_096
        self.answer(self._answer)

    def add(self, token: bytes, word_: Json | AnyAnswer | None = None, **members: Any) -> bytes:
        """Have something said about a token from now on.

        Args:
            token: the token.
            word_: IAM's word about it, or any answer, such as `gate.before(said(word()))`; None for what
                `members` describe.
            members: the arguments of `word`.

        Returns:
            The token.
        """
        if word_ is None or isinstance(word_, Mapping):
            word_ = said(word(**members) if word_ is None else word_, token)
        self.about[token] = word_
        return token

    def remove(self, token: bytes) -> None:
        """Have a token unknown from now on, as when it is revoked."""
        self.about.pop(token, None)

    def _pick(self, received: Received, at: Any) -> AnyAnswer | None:
        if at == "end" and received.target.startswith(TOKENS):
            if received.method == "POST":
                self.logins += 1
            for token in received.all("X-Subject-Token"):
                self.asked[token] += 1
        return super()._pick(received, at)

    async def _answer(self, received: Received, conversation: Conversation) -> None:
        path = received.target.partition("?")[0]
        match received.method, path:
            case "GET", path if path == TOKENS:
                answer = self._about(received)
            case "POST", path if path == TOKENS:
                answer = self._login(received)
            case _:
                answer = refused(404, "Could not find the resource.")
        await conversation.answer(answer)

    def _about(self, received: Received) -> AnyAnswer:
        if received.get("X-Auth-Token") not in self.about:
            return refused(401)
        return self.about.get(received.get("X-Subject-Token") or b"", refused(404, "Could not find token."))

    def _login(self, received: Received) -> AnyAnswer:
        try:
            auth = json.loads(received.body)["auth"]
            user = auth["identity"]["password"]["user"]
            scope = auth["scope"]
            project = scope["project"]["name"] if "project" in scope else None
            account, password = (user["domain"]["name"], user["name"]), user["password"]
        except (ValueError, KeyError, TypeError):
            return refused(400, "Request body is invalid.")
        if auth["identity"]["methods"] != ["password"] or self.accounts.get(account) != password:
            return refused(401, "The username or password is wrong.")
        token = secrets.token(f"{account} {len(self.issued)}", self.token_bytes)
        self.issued.append(token)
        told = word(account[1], project, self.roles, lives_s=self.lives_s)
        self.add(token, told)
        return said(told, token, 201)
