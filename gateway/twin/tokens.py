"""The user and project of a token; the twin keeps digests only."""

import re
from hashlib import blake2b

# What AOS accepts as a project id (API page aos_02_0021, table 1).
_PROJECT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def digest(text: str) -> str:
    """Return 32 hex digits that stand for a text, such as a token."""
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def project_of(token: str) -> str:
    """Return the project a token belongs to: "project-a" for "project-a:alice".

    A token that does not begin with a project id and a colon is a project of its own, named by its digest,
    because project ids stand in records and tokens must not.
    """
    project, colon, _ = token.partition(":")
    return project if colon and _PROJECT.fullmatch(project) else digest(token)


def name_of(token: str) -> str:
    """Return the user's name: "alice" for "project-a:alice:2"; without one, the token's digest."""
    project, *names = token.split(":", 2)
    return names[0] if names and names[0] and _PROJECT.fullmatch(project) else digest(token)


def user_of(token: str) -> str:
    """Return a digest of a token's user, the same for "project-a:alice" and "project-a:alice:2"."""
    return digest(":".join(token.split(":", 2)[:2]))
