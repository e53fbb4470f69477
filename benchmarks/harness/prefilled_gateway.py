"""A gateway whose memory is filled through the store interface, for more records than requests could fill in.

Run it as ``python -m benchmarks.harness.prefilled_gateway --records 1000000``; the environment holds the
gateway's configuration. It serves like the gateway, without the admin address.
"""

import argparse
import asyncio
import os
import signal
from pathlib import Path

import msgspec
import uvloop

from benchmarks.load.targets import path, token
from benchmarks.scenarios.scenario import Load
from gateway.app.gateway import Gateway
from gateway.app.settings import identity_headers, policy_rules
from gateway.config.load import load_config
from gateway.config.model import Config
from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import IdentityReader, variant
from gateway.core.caching.key import EntryKey, KeySpace, upstream_identity

from .origin import answer
from .processes import get


class Filler:
    """Makes the entries of a load and hands them to the tiers.

    Args:
        gateway: where they go.
        load: what will be asked for, by one caller.
    """

    def __init__(self, gateway: Gateway, load: Load) -> None:
        config: Config = gateway.config
        url = config.upstream.url
        self._keys = KeySpace(
            config.redis.prefix, upstream_identity(url.scheme, url.host, url.port, url.base_path)
        )
        identity_reader = IdentityReader(identity_headers(config), b"", shared=policy_rules(config).shared)
        fields = ((b"X-Auth-Token", token(load, 0).encode("ascii")),)
        identity = identity_reader.identify(fields)
        negotiated = variant(fields)
        if isinstance(identity, Reason) or negotiated is None:
            raise ValueError("the load's requests are not looked up at all")
        self._caller, self._variant = identity.entry, negotiated.general
        self._tiers = gateway.tiers
        self._load = load

    def key(self, record: int) -> EntryKey:
        """Return the key of one record."""
        parts = path(self._load, record).encode("ascii").split(b"/")
        execution = ExecutionRef(stack_id=parts[3], action_id=parts[5], has_query=False)
        return self._keys.entry(self._caller, self._variant, execution)

    def fill(self, template: Entry) -> None:
        """Store every record but the first, made like that one, which was fetched.

        Raises:
            ValueError: one was not kept.
        """
        for record in range(1, self._load.records):
            target = path(self._load, record).encode("ascii")
            body = answer(target, self._load.body_bytes).partition(b"\r\n\r\n")[2]
            entry = msgspec.structs.replace(template, body=body)
            reason = self._tiers.store(self._tiers.fill_token(self.key(record)), entry)
            if reason is not None:
                raise ValueError(f"record {record} was not kept: {reason.value}")

    def template(self) -> Entry:
        """Return the first record as it was kept."""
        entry = self._tiers.peek(self.key(0))
        if entry is None:
            raise ValueError("the first record is not where this looks for it")
        return entry


async def serve(load: Load, mark: Path | None) -> None:
    """Start, fetch one record, fill in the others, and serve until SIGTERM or SIGINT.

    Args:
        load: the records.
        mark: a file that is made once they are all in.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    gateway = Gateway(load_config(None, os.environ, {}))
    address = await gateway.start()
    try:
        url = f"http://{address}{path(load, 0)}"
        await asyncio.to_thread(get, url, 5.0, X_Auth_Token=token(load, 0))
        filler = Filler(gateway, load)
        filler.fill(filler.template())
        if mark is not None:
            await asyncio.to_thread(mark.touch)
        await done.wait()
    finally:
        await gateway.close(1.0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.prefilled_gateway", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--records", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--body-bytes", type=int, default=Load().body_bytes, metavar="N", help="of each")
    parser.add_argument("--mark", type=Path, metavar="FILE", help="made once all are in")
    options = parser.parse_args()
    uvloop.run(serve(Load(records=options.records, body_bytes=options.body_bytes), options.mark))


if __name__ == "__main__":
    main()
