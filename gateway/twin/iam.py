"""The twin's IAM: tokens for passwords, and whose a token is (API pages iam_30_0001 and iam_30_0004).

IAM's word about a token that it has not issued follows from the token: "project-a:alice:1" is Alice's of the
account "twin", in the project "project-a", and lives as long as nobody revokes it.

Its time is the real one, moved by the jumps of the twin's clock: callers compare it with their own.
"""

import base64
from collections import deque
from random import Random
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

import msgspec

from gateway.twin.records import Json, dump, rfc3339_micro
from gateway.twin.replies import Reply, iam_error
from gateway.twin.signatures import Key
from gateway.twin.tokens import digest, name_of, project_of, user_of

# The oldest are dropped.
_MAX_ISSUED: Final = 10_000
_MAX_REVOKED: Final = 10_000
_MAX_LISTED: Final = 1_000
_DAY_S: Final = 86_400.0
# What most real ones have: between three and nine thousand characters.
_TOKEN_BYTES: Final = 4_500

_UNAUTHENTICATED: Final = "The request you have made requires authentication."
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user of an account, by the names of both.

    Attributes:
        password: what the user logs in with; "" for nobody can.
        roles: names of the roles; all ids are "0", as IAM's own examples have it.
        lives_s: how long an issued token lives, seconds.
        members: more of IAM's word about the user's tokens, such as mfa_authn_at, or instead of it.
    """

    name: _Name
    domain: _Name = "twin"
    password: str = ""
    roles: tuple[str, ...] = ("te_agency", "readonly", "op_gated_aos")
    lives_s: Annotated[float, msgspec.Meta(gt=0, le=_DAY_S)] = _DAY_S
    members: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Show names alone."""
        return f"User({self.domain!r}, {self.name!r})"


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a token is, and between which Unix seconds; without a project it is for the whole account."""

    user: User
    project: str | None
    issued_s: float
    ends_s: float


class _Named(msgspec.Struct, frozen=True):
    """A project or an account; `id` and `name` are one here."""

    id: str = ""
    name: str = ""


class _LoginUser(msgspec.Struct, frozen=True):
    name: str
    password: str
    domain: _Named


class _Password(msgspec.Struct, frozen=True):
    user: _LoginUser


class _Identity(msgspec.Struct, frozen=True):
    methods: list[str]
    password: _Password


class _Scope(msgspec.Struct, frozen=True):
    project: _Named | None = None
    domain: _Named | None = None


class _Auth(msgspec.Struct, frozen=True):
    identity: _Identity
    scope: _Scope = _Scope()


class _Login(msgspec.Struct, frozen=True):
    """Body of `POST /v3/auth/tokens` (API page iam_30_0001, table 3)."""

    auth: _Auth


_LOGIN: Final = msgspec.json.Decoder(_Login)


class Iam:
    """The users, by account and name, the access keys, and digests of the revoked tokens.

    Attributes:
        issued_only: whether only tokens that it has issued are accepted; otherwise all that are not revoked.
        issued: how many tokens it has issued.
    """

    def __init__(self, seed: int) -> None:
        """Know one user and one access key, both named "twin"; the tokens follow from the seed."""
        self.users: dict[tuple[str, str], User] = {}
        self.keys: dict[str, Key] = {}
        self.revoked: deque[str] = deque(maxlen=_MAX_REVOKED)
        self.issued_only = False
        self.issued = 0
        self._seed = seed
        self._grants: dict[str, Grant] = {}
        self.put_user(User(name="twin", password="twin"))
        self.put_key(Key(access_key="twin", secret_key="twin"))

    def put_user(self, user: User) -> None:
        """Add or replace a user, whose tokens from before end; the oldest goes when there are too many."""
        place = user.domain, user.name
        for token, grant in self._grants.items():
            if (grant.user.domain, grant.user.name) == place:
                self.revoked.append(token)
        _put(self.users, place, user, _MAX_LISTED)

    def put_key(self, key: Key) -> None:
        """Add or replace an access key; the oldest goes when there are too many."""
        _put(self.keys, key.access_key, key, _MAX_LISTED)

    def revoke(self, token: str) -> str:
        """Refuse a token from now on; returns its digest."""
        revoked = digest(token)
        if revoked not in self.revoked:
            self.revoked.append(revoked)
        return revoked

    def grant(self, token: str, now_s: float) -> Grant | None:
        """Tell whose a token is; None when it is not valid."""
        known = self._grants.get(digest(token))
        if not token or digest(token) in self.revoked or (known is None and self.issued_only):
            return None
        if known is not None:
            return known if now_s < known.ends_s else None
        name = name_of(token)
        user = self.users.get(("twin", name)) or User(name=name)
        return Grant(user=user, project=project_of(token), issued_s=now_s, ends_s=now_s + _DAY_S)

    def counted_as(self, token: str) -> str:
        """Return a digest of the token's user, whatever else the token says: whom throttles count."""
        known = self._grants.get(digest(token))
        return user_of(token) if known is None else digest(f"{known.user.domain}\n{known.user.name}")

    def log_in(self, body: bytes | None, query: str, now_s: float) -> Reply:
        """Answer `POST /v3/auth/tokens`: 201 with the token in X-Subject-Token."""
        try:
            auth = _LOGIN.decode(body or b"").auth
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return iam_error(400, "The request body is invalid.")
        if auth.identity.methods != ["password"]:
            return iam_error(400, "The method of authentication is not supported.")
        wanted = auth.identity.password.user
        user = self.users.get((wanted.domain.name or wanted.domain.id, wanted.name))
        if user is None or not user.password or user.password != wanted.password:
            return iam_error(401, "The username or password is wrong.")
        project = None if auth.scope.project is None else auth.scope.project.name or auth.scope.project.id
        if project == "":
            return iam_error(400, "The scope names no project.")
        grant = Grant(user=user, project=project, issued_s=now_s, ends_s=now_s + user.lives_s)
        token = self._next_token()
        _put(self._grants, digest(token), grant, _MAX_ISSUED)
        return _told(grant, token, query, 201)

    def verify(self, asking: str, asked: list[str], query: str, now_s: float) -> Reply:
        """Answer `GET /v3/auth/tokens`.

        Args:
            asking: the X-Auth-Token: the token itself, another one of its user's, or that of a Security
                Administrator of the account.
            asked: the values of X-Subject-Token.
            query: with `nocatalog` the answer has no catalogue.
        """
        by = self.grant(asking, now_s)
        if by is None:
            return iam_error(401, _UNAUTHENTICATED)
        if len(asked) != 1:
            return iam_error(400, "X-Subject-Token is required, once.")
        about = self.grant(asked[0], now_s) if asked[0].isascii() else None
        if about is None:
            return iam_error(404, "Could not find token.")
        is_own = (by.user.domain, by.user.name) == (about.user.domain, about.user.name)
        if not is_own and (by.user.domain != about.user.domain or "secu_admin" not in by.user.roles):
            return iam_error(403, "You are not authorized to perform the requested action.")
        return _told(about, asked[0], query, 200)

    def _next_token(self) -> str:
        """Return a new token of realistic length; the same seed gives the same tokens."""
        self.issued += 1
        octets = Random(f"{self._seed}/token/{self.issued}").randbytes(_TOKEN_BYTES)
        # A signed message of CMS in base64, with "-" for "/".
        return "MII" + base64.b64encode(octets, b"+-").decode()


def _put(table: dict[Any, Any], place: object, value: object, limit: int) -> None:
    table.pop(place, None)
    table[place] = value
    if len(table) > limit:
        del table[next(iter(table))]


def _told(grant: Grant, token: str, query: str, status: int) -> Reply:
    body = {"token": _word(grant, with_catalog="nocatalog" not in parse_qs(query, keep_blank_values=True))}
    return Reply(status=status, body=dump(body), headers=(("X-Subject-Token", token),))


def _word(grant: Grant, *, with_catalog: bool) -> Json:
    """Return IAM's word about a token, its members in the order of real answers."""
    user = grant.user
    domain = {"id": digest(f"domain/{user.domain}"), "name": user.domain}
    word: Json = {"expires_at": rfc3339_micro(grant.ends_s), "methods": ["password"]}
    if with_catalog:
        word["catalog"] = [_service("iam", "*", "v3.0"), _service("aos", "twin", "v2")]
    if grant.project is None:
        word["domain"] = domain
    word["roles"] = [{"id": "0", "name": role} for role in user.roles]
    if grant.project is not None:
        word["project"] = {"domain": domain, "id": grant.project, "name": grant.project}
    word["issued_at"] = rfc3339_micro(grant.issued_s)
    identity = {"id": digest(f"user/{user.domain}/{user.name}"), "name": user.name}
    word["user"] = {"domain": domain, **identity, "password_expires_at": ""}
    return word | user.members


def _service(name: str, region: str, version: str) -> Json:
    endpoint = {
        "id": digest(f"endpoint/{name}"),
        "interface": "public",
        "region": region,
        "region_id": region,
        "url": f"https://{name}.example.com/{version}",
    }
    return {"endpoints": [endpoint], "id": digest(f"service/{name}"), "name": name, "type": name}
