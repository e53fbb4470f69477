"""Answers of a scripted AOS: exact bytes, a described response, or a callable with full control."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Protocol

from .watch import Watch
from .wire import Body, Field, Message, values

Text = str | bytes
HOLD_S = 30.0


@dataclass
class Received(Message):
    """One request as the scripted AOS got it.

    Attributes:
        raw_head: the exact bytes from the first one to the blank line, with it.
        method: as sent.
        target: as sent, one character per byte.
        headers: fields in order, names in their case, values without outer blanks.
        connection: number of the connection it came on, from 1.
        framing: how far its body has been read, with chunks and trailers.
    """

    raw_head: bytes
    method: str
    target: str
    headers: list[Field]
    connection: int
    framing: Body

    @property
    def complete(self) -> bool:
        """Whether the whole body has been read."""
        return self.framing.complete


class Conversation(Protocol):
    """The connection that a request came on, as a callable answer sees it."""

    async def send(self, data: bytes) -> None: ...
    async def answer(self, answer: "AnyAnswer") -> None: ...
    async def read_body(self, at_least_bytes: int | None = None) -> None: ...
    async def wait_closed(self, timeout_s: float = 5.0) -> None: ...
    def half_close(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


AnswerCall = Callable[[Received, Conversation], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """A response to be written exactly so; no Date, Server or Content-Type comes by itself.

    Attributes:
        status: the status code.
        reason: the reason phrase; None takes the usual one.
        headers: fields in order; the framing's own field comes after them unless it is among them.
        body: the content.
        framing: "length" adds Content-Length, "chunked" adds Transfer-Encoding, "close" adds nothing and
            closes after the body, "none" adds nothing and keeps the connection.
        chunks: the content in pieces, instead of body: chunks when chunked, else separate writes.
        trailers: fields behind a chunked body.
        body_gate: holds between the head and the body.
    """

    status: int = 200
    reason: Text | None = None
    headers: Sequence[tuple[Text, Text]] = ()
    body: bytes = b""
    framing: Literal["length", "chunked", "close", "none"] = "length"
    chunks: Sequence[bytes] | None = None
    trailers: Sequence[tuple[Text, Text]] = ()
    body_gate: "Gate | None" = None

    def pieces(self) -> list[bytes]:
        """The content in the pieces it is written in."""
        whole = [self.body] if self.body else []
        return whole if self.chunks is None else list(self.chunks)

    def head(self) -> bytes:
        """The status line and the fields, with the blank line."""
        fields = [(as_bytes(name), as_bytes(value)) for name, value in self.headers]
        size = sum(map(len, self.pieces()))
        bodiless = self.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED} and not size
        if self.framing == "length" and not bodiless and not values(fields, "content-length"):
            fields.append((b"Content-Length", b"%d" % size))
        if self.framing == "chunked" and not values(fields, "transfer-encoding"):
            fields.append((b"Transfer-Encoding", b"chunked"))
        lines = [b"HTTP/1.1 %d %s" % (self.status, self._phrase())]
        lines += [name + b": " + value for name, value in fields]
        return b"\r\n".join([*lines, b"", b""])

    def framed_pieces(self) -> list[bytes]:
        """The body as it goes over the wire, in the pieces it is written in."""
        if self.framing != "chunked":
            return self.pieces()
        lines = [as_bytes(name) + b": " + as_bytes(value) + b"\r\n" for name, value in self.trailers]
        return [*map(chunk, self.pieces()), b"0\r\n" + b"".join(lines) + b"\r\n"]

    def whole(self) -> bytes:
        """Head and body in one."""
        return self.head() + b"".join(self.framed_pieces())

    @property
    def closes(self) -> bool:
        """Whether the connection ends after this answer."""
        return self.framing == "close" or says_close([(as_bytes(n), as_bytes(v)) for n, v in self.headers])

    def _phrase(self) -> bytes:
        if self.reason is not None:
            return as_bytes(self.reason)
        return HTTPStatus(self.status).phrase.encode() if self.status in set(HTTPStatus) else b""


AnyAnswer = bytes | Answer | AnswerCall


class Gate:
    """Holds answers until the test opens it."""

    def __init__(self) -> None:
        self._watch = Watch()
        self.reached = 0
        self.is_open = False

    def open(self) -> None:
        """Let everything pass from now on."""
        self.is_open = True
        self._watch.changed()

    async def passed(self, timeout_s: float = HOLD_S) -> None:
        """Arrive at the gate and wait until it is open (deadline in seconds)."""
        self.reached += 1
        self._watch.changed()
        await self._watch.until(lambda: self.is_open, "a gate that was not opened", timeout_s)

    async def wait_reached(self, n: int = 1, timeout_s: float = 5.0) -> None:
        """Wait until n requests were counted in total (deadline in seconds)."""
        await self._watch.until(
            lambda: self.reached >= n, lambda: f"{n} requests at a gate, {self.reached} came", timeout_s
        )

    def before(self, answer: AnyAnswer) -> AnswerCall:
        """The same answer, held before its first byte until the gate is open."""

        async def held(_: Received, conversation: Conversation) -> None:
            await self.passed()
            await conversation.answer(answer)

        return held


def truncated(answer: Answer | bytes, keep_bytes: int, *, with_reset: bool = False) -> AnswerCall:
    """The first keep_bytes bytes of an answer, head included; then the connection ends."""
    whole = answer if isinstance(answer, bytes) else answer.whole()

    async def cut(_: Received, conversation: Conversation) -> None:
        await conversation.send(whole[:keep_bytes])
        if with_reset:
            conversation.abort()
        else:
            conversation.close()

    return cut


async def close_unanswered(_: Received, conversation: Conversation) -> None:
    """End the connection without a response."""
    conversation.close()


async def reset_unanswered(_: Received, conversation: Conversation) -> None:
    """Reset the connection without a response."""
    conversation.abort()


async def never(_: Received, conversation: Conversation) -> None:
    """Send no response; wait until the caller has gone."""
    await conversation.wait_closed(HOLD_S)


def chunk(data: bytes) -> bytes:
    """One chunk with its framing."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def as_bytes(text: Text) -> bytes:
    """Text as it goes over the wire, one byte per character."""
    return text.encode("latin-1") if isinstance(text, str) else text


def says_close(fields: Sequence[Field]) -> bool:
    """Whether a Connection field announces the end of the connection."""
    members = b",".join(values(fields, "connection")).lower().split(b",")
    return b"close" in [member.strip() for member in members]
