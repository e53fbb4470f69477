"""The arguments of the command line, and their help."""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from gateway import __version__
from gateway.config.errors import one_line

PROG: Final = "aos-gateway"
ERROR: Final = 1
USAGE: Final = 2

_MAIN_EPILOG: Final = """\
first steps:
  aos-gateway demo                                        watch it work against a simulated AOS
  aos-gateway serve --upstream https://aos.example.com    stand in front of a real one
  aos-gateway COMMAND --help                              more about one command

exit codes: 0 clean, 2 wrong usage, configuration or address, 1 anything else
(wait: see its help)
"""
_SERVE_EPILOG: Final = """\
Environment variables AOS_GATEWAY_<SECTION>__<KEY> set the same keys as the configuration file, such as
AOS_GATEWAY_CACHE__ACCESS_TTL_S=60; lists are comma-separated. A secret may stand in a file that
AOS_GATEWAY_CACHE__SECRET_FILE, AOS_GATEWAY_REDIS__URL_FILE or AOS_GATEWAY_SERVER__ADMIN_TOKEN_FILE names.
Options override the environment, the environment overrides the file, the file overrides the defaults.
config/gateway.toml explains every key.

examples:
  aos-gateway serve --upstream https://aos.example.com
  aos-gateway serve --upstream https://aos.example.com --listen 0.0.0.0:8080 --redis redis://redis.example.com:6379/0
  aos-gateway serve --upstream https://aos.example.com --listen unix:/run/aos/gateway.sock --scope shared
  aos-gateway serve --config config/gateway.toml

It is ready when http://127.0.0.1:9901/readyz (the admin address) answers 200.
SIGTERM and Ctrl-C end it cleanly, SIGHUP reloads the configuration, SIGUSR2 is a hot restart.
"""
_TWIN_EPILOG: Final = """\
examples:
  aos-gateway twin                                     listen on 127.0.0.1:8090
  aos-gateway twin --profile realistic --seed 7        slower, with failures, the same on every start
  aos-gateway twin --control 127.0.0.1:8091            faults on demand
"""
_CHECK_EPILOG: Final = """\
examples:
  aos-gateway check --config config/gateway.toml
  AOS_TOKEN=... aos-gateway check --config gateway.toml --probe my-stack my-stack-1
  AOS_TOKEN=... aos-gateway check --config gateway.toml --iam
"""
_PURGE_EPILOG: Final = """\
Over the network the gateway requires its server.admin_token: set AOS_GATEWAY_SERVER__ADMIN_TOKEN, or
AOS_GATEWAY_SERVER__ADMIN_TOKEN_FILE to a file that holds it. On the same machine no token is needed.

examples:
  aos-gateway purge my-stack
  aos-gateway purge --admin unix:/run/aos/admin.sock my-stack
"""
_WAIT_EPILOG: Final = """\
The token comes from AOS_TOKEN or --token-file. A gateway that supports Prefer: wait answers when something
changes; AOS itself, and anything else that ignores it, is polled every 2 to 10 seconds. Failed connections,
429 and 5xx are retried, after the time that the response names.

exit codes:
  0  Succeeded, or a delete whose stack is gone (404)
  1  anything else    3  Failed                       5  timed out         7  token refused (401, 403)
  2  wrong usage      4  Cancelled, ForceCancelled    6  not found (404)

examples:
  AOS_TOKEN=... aos-gateway wait my-stack my-stack-1
  aos-gateway wait --gateway unix:/run/aos/gateway.sock --token-file token --json my-stack my-stack-1
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and suggest the option that was probably meant."""

    commands: Mapping[str, "_Parser"]

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as the base does, but reject what is unknown here, where the command's options are known."""
        arguments = sys.argv[1:] if args is None else args
        # The base would take the value of an option before the command for the command.
        if arguments and _is_option(arguments[0]) and not self._has(arguments[0]):
            self._reject(arguments[:1])
        known, unknown = super().parse_known_args(arguments, namespace)
        if unknown:
            self._reject(unknown)
        return known, unknown

    def _has(self, option: str) -> bool:
        return option.partition("=")[0] in self._option_string_actions

    def _reject(self, unknown: Sequence[str]) -> NoReturn:
        # Values and positional arguments are not shown: a URL among them may hold a password.
        option = next((each.partition("=")[0] for each in unknown if _is_option(each)), None)
        if option is None:
            self.error("1 argument too many" if len(unknown) == 1 else f"{len(unknown)} arguments too many")
        owners = [name for name, command in self.commands.items() if command._has(option)]
        options = list(self._option_string_actions)
        near = [known for known in options if len(known) > 2 and option.startswith(known)]
        near = near or difflib.get_close_matches(option, options, n=1)
        if owners:
            self.error(f"{option} is an option of {' and '.join(owners)}; write it behind that command")
        self.error(f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else ""))

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")
        self.exit(USAGE)


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and argument not in {"-", "--"}


def complain(line: str) -> int:
    """Print one line about what went wrong; return the exit code for an error."""
    print(one_line(f"{PROG}: {line}"), file=sys.stderr)
    return ERROR


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the parsed arguments have the attribute `command`, the command's name."""
    parser = _Parser(
        prog=PROG,
        description="A caching proxy for Huawei Cloud AOS: stores settled execution records.",
        epilog=_MAIN_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=about, epilog=epilog)

    serve = add(
        "serve",
        "run the gateway",
        "Run the gateway in front of one AOS. Only the upstream is required.",
        _SERVE_EPILOG,
    )
    config_help = "configuration file, TOML (default: none)"
    serve.add_argument("--config", metavar="F", help=config_help)
    address = "host:port, [v6]:port, :port for all interfaces, or unix:/path"
    serve.add_argument(
        "--listen", metavar="A", help=f"where callers connect: {address} (default: 127.0.0.1:8080)"
    )
    serve.add_argument("--admin", metavar="A", help="where operators connect (default: 127.0.0.1:9901)")
    serve.add_argument("--upstream", metavar="URL", help="URL of AOS, http:// or https://")
    serve.add_argument(
        "--redis",
        metavar="URL",
        help="share stored records through Redis: redis://, rediss:// or unix:// (default: memory only); "
        "other users of this machine can see options, so use AOS_GATEWAY_REDIS__URL_FILE for a password",
    )
    serve.add_argument(
        "--scope",
        metavar="caller|shared",
        help="who gets a stored record: only the caller it was fetched for, or all who can connect "
        "(default: caller)",
    )
    serve.add_argument(
        "--workers", metavar="N", help="number of processes; 0: one for each core (default: 1)"
    )

    twin = add(
        "twin",
        "run a simulated AOS to develop and measure against",
        "Run a simulated AOS: stacks can be created, changed and deleted, executions take a modelled time.\n"
        "It answers for IAM too (POST and GET /v3/auth/tokens): account, user, password, access key and\n"
        'secret key are "twin".',
        _TWIN_EPILOG,
    )
    twin.add_argument(
        "--listen",
        metavar="A",
        default="127.0.0.1:8090",
        help=f"where it listens: {address} (default: %(default)s)",
    )
    twin.add_argument("--control", metavar="A", help="loopback address that accepts faults (default: off)")
    twin.add_argument(
        "--profile",
        metavar="NAME",
        default="demo",
        help="demo, load, realistic or throttled (default: %(default)s)",
    )
    twin.add_argument(
        "--seed", metavar="N", type=int, default=1, help="equal seeds give equal runs (default: %(default)s)"
    )

    demo = add(
        "demo",
        "watch the gateway work against a simulated AOS",
        "Start a simulated AOS and the gateway, poll one execution to its end with one line per poll, let "
        "ten\ncallers wait for another, then keep both running and print curl commands to try. "
        "Ctrl-C ends it.",
    )
    demo.add_argument(
        "--identity",
        choices=("token", "user"),
        default="token",
        help="user: at the end another token of the same user is given what the first one has fetched "
        "(default: %(default)s)",
    )

    check = add(
        "check",
        "validate the configuration",
        "Validate file and environment, and print the effective configuration with secrets masked.",
        _CHECK_EPILOG,
    )
    check.add_argument("--config", metavar="F", help=config_help)
    check.add_argument(
        "--probe",
        nargs=2,
        metavar=("STACK", "ACTION"),
        help="instead, fetch this record with the token in AOS_TOKEN and say why it would be stored or not",
    )

    check.add_argument(
        "--iam", action="store_true", help="instead, ask iam.url once whose the token in AOS_TOKEN is"
    )

    purge = add(
        "purge",
        "make a stack's stored records unusable",
        "Invalidate a stack in a running gateway, so that its records are fetched again.",
        _PURGE_EPILOG,
    )
    purge.add_argument(
        "--admin",
        metavar="A",
        default="127.0.0.1:9901",
        help="the gateway's admin address (default: %(default)s)",
    )
    purge.add_argument("stack_id", metavar="STACK_ID", help="the id of the stack")

    wait = add(
        "wait",
        "wait until an execution has ended",
        "Poll an execution until it has ended, and print what changes. The exit code says how it ended.",
        _WAIT_EPILOG,
    )
    wait.add_argument(
        "--gateway",
        metavar="URL",
        default="http://127.0.0.1:8080",
        help="the gateway, or AOS itself: http://, https:// or unix:/path (default: %(default)s)",
    )
    wait.add_argument(
        "--timeout",
        metavar="T",
        default="20m",
        help="time limit, like 90s, 20m or 1h30m (default: %(default)s)",
    )
    wait.add_argument("--token-file", metavar="F", help="file with the token (default: AOS_TOKEN)")
    wait.add_argument(
        "--json",
        action="store_true",
        help="print result and record as one JSON object, everything else to standard error",
    )
    wait.add_argument("stack_id", metavar="STACK", help="the id of the stack")
    wait.add_argument("action_id", metavar="ACTION", help="the id of the execution")
    for each in (parser, *commands.choices.values()):
        each.commands = commands.choices
    return parser
