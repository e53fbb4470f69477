"""The command line `aos-gateway`.

Each command imports what it needs when it runs: `--help` stays quick, and `serve` never loads the twin.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.cli.arguments import ERROR, USAGE, build_parser, complain
from gateway.config.errors import ConfigError, shorten

_OK: Final = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, without `argv` that of `sys.argv`, and return its exit code; see `--help`."""
    arguments = build_parser().parse_args(argv)
    if arguments.command in _UNTIL_STOPPED:
        from gateway.telemetry.line_writer import unblock_standard_streams

        unblock_standard_streams()
    try:
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except ConfigError as exc:
        complain(str(exc))
        return USAGE
    except BrokenPipeError:
        # The reader of the output has left; without this, Python prints a second error while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except KeyboardInterrupt:
        return _OK if arguments.command in _UNTIL_STOPPED else ERROR


def _serve(arguments: argparse.Namespace) -> int:
    from gateway.runtime.signals import hold

    hold()
    from gateway.config.load import Sources

    flags = {
        "server.listen": arguments.listen,
        "server.admin_listen": arguments.admin,
        "server.workers": arguments.workers,
        "upstream.url": arguments.upstream,
        "redis.url": arguments.redis,
        "cache.scope": arguments.scope,
    }
    sources = Sources(path=arguments.config, environ=dict(os.environ), flags=flags)
    from gateway.server.run import run

    return run(sources)


def _twin(arguments: argparse.Namespace) -> int:
    from gateway.config.address import parse_address

    listen = parse_address(arguments.listen)
    control = None if arguments.control is None else parse_address(arguments.control)
    from gateway.twin.server import run

    return run(listen=listen, control=control, profile=arguments.profile, seed=arguments.seed)


def _demo(arguments: argparse.Namespace) -> int:
    from gateway.cli.demo import run

    return run(by_user=arguments.identity == "user")


def _check(arguments: argparse.Namespace) -> int:
    from gateway.config.load import load_config, masked
    from gateway.config.secret import Secret
    from gateway.config.sources import unused_variables

    config = load_config(arguments.config, os.environ, {})
    if (unused := unused_variables(os.environ)) is not None:
        complain(f"warning: {unused}")
    from gateway.runtime.tls import check_files

    check_files(config)
    if arguments.probe is None and not arguments.iam and not arguments.redis:
        print(_as_toml(masked(config)))
        print("configuration is valid")
        return _OK
    import asyncio

    from gateway.cli.check import ask_iam, probe, try_redis

    if arguments.redis:
        return asyncio.run(try_redis(config))
    token = os.environ.get("AOS_TOKEN", "")
    if not token:
        option = "--iam" if arguments.iam else "--probe"
        raise ConfigError(
            f"{option} needs a token; set the environment variable AOS_TOKEN to one that AOS accepts"
        )
    if arguments.iam:
        return asyncio.run(ask_iam(config, token=Secret(token)))
    return asyncio.run(probe(config, *arguments.probe, token=Secret(token)))


def _purge(arguments: argparse.Namespace) -> int:
    from gateway.cli.purge import run
    from gateway.config.address import TcpAddress, parse_address
    from gateway.config.load import admin_token
    from gateway.core.aos.route import is_id

    address = parse_address(arguments.admin)
    if isinstance(address, TcpAddress) and address.port == 0:
        raise ConfigError(
            f"--admin {address} has port 0; write the port of the gateway's server.admin_listen"
        )
    if not is_id(os.fsencode(arguments.stack_id)):
        raise ConfigError(
            f"STACK_ID = {shorten(arguments.stack_id)} is not a stack id; write one stack's whole id, "
            "1 to 64 of A-Z a-z 0-9 . _ ~ -"
        )
    return run(address, arguments.stack_id, admin_token(os.environ))


def _wait(arguments: argparse.Namespace) -> int:
    from gateway.cli.wait import read_options, run

    return run(read_options(arguments, os.environ))


def _as_toml(sections: Mapping[str, object]) -> str:
    blocks = []
    for section, keys in sections.items():
        assert isinstance(keys, dict)
        blocks.append(
            "\n".join([f"[{section}]", *(f"{key} = {_toml_value(value)}" for key, value in keys.items()), ""])
        )
    return "\n".join(blocks)


def _toml_value(value: object) -> str:
    import json

    match value:
        case float() if value.is_integer():
            return str(int(value))
        case list():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case _:
            return json.dumps(value)


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "serve": _serve,
    "twin": _twin,
    "demo": _demo,
    "check": _check,
    "purge": _purge,
    "wait": _wait,
}
# Ctrl-C is how these end; the others are cut short by it.
_UNTIL_STOPPED: Final = frozenset({"serve", "twin", "demo"})
