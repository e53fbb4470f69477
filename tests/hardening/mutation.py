"""Random damage to messages, the same for the same seed."""

import random

_PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"-",
    b"+",
    b"\xff",
    b"\x0b",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length : 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: evil\r\n",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"FFFFFFFFFFFFFFFF\r\n",
    b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b" HTTP/1.0",
    b"HTTP/2.0",
]


def mutate(chooser: random.Random, seeds: list[bytes]) -> bytes:
    """Damage one of the seeds in one to four places."""
    data = bytearray(chooser.choice(seeds))
    for _ in range(chooser.randint(1, 4)):
        at = chooser.randrange(len(data) + 1)
        until = min(len(data), at + chooser.choice([1, 1, 2, 8, 40]))
        match chooser.randrange(7):
            case 0:
                data[at:at] = chooser.choice(_PIECES)
            case 1:
                data[at:until] = chooser.choice(_PIECES)
            case 2:
                del data[at:until]
            case 3:
                data[at:at] = data[at:until]
            case 4 if at < len(data):
                data[at] ^= 1 << chooser.randrange(8)
            case 5:
                # Where lines meet is where parsers differ.
                ends = [index for index in range(len(data)) if data[index : index + 2] == b"\r\n"]
                at = chooser.choice(ends or [0])
                data[at : at + chooser.randint(0, 2)] = chooser.choice(_PIECES)
            case _:
                other = chooser.choice(seeds)
                data[at:] = other[chooser.randrange(len(other)) :]
    return bytes(data)
