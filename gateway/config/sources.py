"""Sources of settings: a TOML file, the environment, the command line."""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import ConfigError, one_line, shorten
from gateway.config.model import FROM_FILE, RULES, SECTIONS
from gateway.config.rules import encoding_fault

ENVIRONMENT_PREFIX: Final = "AOS_GATEWAY_"
_FILE_SUFFIX: Final = "_FILE"
# Least similarity for a suggestion (`difflib`).
_NEAR: Final = 0.8
_MAX_CONFIG_BYTES: Final = 1_048_576
_MAX_SECRET_BYTES: Final = 65_536
_PATH_CHARACTERS: Final = 4_096
# What Kubernetes puts into the environment for Services whose name starts with "aos-gateway".
_SERVICE_LINK = re.compile(
    r"AOS_GATEWAY_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class RawSetting(msgspec.Struct, frozen=True, kw_only=True):
    """One unchecked setting.

    Attributes:
        value: a TOML value, or a text.
        is_text: numbers, booleans and lists are still to be parsed from the text.
        source: where it was set, for error texts.
    """

    value: object
    is_text: bool
    source: str


def from_toml(path: str) -> dict[str, RawSetting]:
    """Read the settings of a TOML file, by "section.key"; raise `ConfigError` for anything unknown."""
    # A shortened path would be useless.
    named = f"configuration file {shorten(path, _PATH_CHARACTERS)}"
    text = _read(path, _MAX_CONFIG_BYTES, named)
    try:
        document = tomllib.loads(text)
    except RecursionError as exc:
        raise ConfigError(f"{named} is nested too deeply; write plain values") from exc
    except ValueError as exc:
        raise ConfigError(f"{named} is not TOML: {exc}; correct that place") from exc
    settings: dict[str, RawSetting] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            raise ConfigError(f"key {shorten(section)} in {path} is outside a section{_hint(section)}")
        if section not in SECTIONS:
            near = difflib.get_close_matches(section.lower(), SECTIONS, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"there are {' or '.join(SECTIONS)}"
            raise ConfigError(f"unknown section [{section}] in {path}; {hint}")
        for key, value in table.items():
            name = f"{section}.{key}"
            if name not in RULES:
                raise ConfigError(f"unknown key {name} in {path}{_hint(name)}")
            settings[name] = RawSetting(value=value, is_text=False, source=path)
    return settings


def from_environment(environ: Mapping[str, str]) -> dict[str, RawSetting]:
    """Read the settings of the environment, by "section.key".

    They are `AOS_GATEWAY_<SECTION>__<KEY>`, for secrets also with `_FILE`. A variable that resembles one but
    is none raises `ConfigError`.
    """
    settings: dict[str, RawSetting] = {}
    for variable in _ours(environ):
        if variable not in _VARIABLES:
            if _resembles_a_setting(variable):
                raise ConfigError(
                    f"unknown environment variable {variable}{_hint(_dotted(variable), as_variable=True)}"
                )
            continue
        name, is_file = _VARIABLES[variable]
        if name in settings:
            both = f"{variable_of(name)} and {variable_of(name)}{_FILE_SUFFIX}"
            raise ConfigError(f"{name} is set by both {both}; unset one of them")
        value = secret_in_file(variable, environ[variable]) if is_file else environ[variable]
        settings[name] = RawSetting(value=value, is_text=True, source=variable)
    return settings


def unused_variables(environ: Mapping[str, str]) -> str | None:
    """List in one line the variables with the gateway's prefix that resemble no setting; `None` for none."""
    unused = [name for name in _ours(environ) if name not in _VARIABLES and not _resembles_a_setting(name)]
    return one_line(f"environment variables that name no setting: {', '.join(unused)}") if unused else None


def from_flags(flags: Mapping[str, object]) -> dict[str, RawSetting]:
    """Read the settings of the command line, by "section.key"; None for those not set."""
    for name in flags:
        if name not in RULES:
            raise ConfigError(f"unknown key {name}{_hint(name)}")
    return {
        name: RawSetting(value=value, is_text=isinstance(value, str), source="command line")
        for name, value in flags.items()
        if value is not None
    }


def variable_of(name: str) -> str:
    """Return the environment variable of a setting, "section.key"."""
    return ENVIRONMENT_PREFIX + name.upper().replace(".", "__")


def _ours(environ: Mapping[str, str]) -> list[str]:
    return sorted(
        name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and not _SERVICE_LINK.fullmatch(name)
    )


# The setting of each variable, and whether the value is the name of a file that holds it.
_VARIABLES: Final = {variable_of(name) + _FILE_SUFFIX: (name, True) for name in FROM_FILE} | {
    variable_of(name): (name, False) for name in RULES
}


def _resembles_a_setting(variable: str) -> bool:
    """Tell whether a variable is probably a misspelled setting, by its form or by a section or key."""
    name = _dotted(variable.removesuffix(_FILE_SUFFIX)).strip("_.")
    if "." in name or name.startswith(tuple(f"{section}_" for section in SECTIONS)):
        return True
    words = {part for known in RULES for part in (known, *known.split("."))}
    return bool(difflib.get_close_matches(name, words, n=1, cutoff=_NEAR))


def _dotted(variable: str) -> str:
    return variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".", 1)


def secret_in_file(variable: str, path: str) -> str:
    """Return the content, without its final line end, of a file that a variable or option names."""
    named = f"file {shorten(path)}, named by {variable},"
    text = _read(path, _MAX_SECRET_BYTES, named, "write it as base64").removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"{named} is empty; write the value into it")
    return text


def _read(path: str, max_bytes: int, what: str, remedy: str = "save it as UTF-8") -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no valid path"
        raise ConfigError(f"{what} can't be read ({reason}); name a file that this user may read") from exc
    if len(content) > max_bytes:
        raise ConfigError(f"{what} is longer than {max_bytes} bytes; name another file")
    if (fault := encoding_fault(content)) is not None:
        raise ConfigError(f"{what} {fault}")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what} is not UTF-8 text; {remedy}") from exc
    if "\0" in text:
        raise ConfigError(f"{what} holds NUL bytes, as UTF-16 text does; save it as UTF-8")
    return text


def _hint(name: str, *, as_variable: bool = False) -> str:
    """Return "; did you mean ...?" with the nearest settings, or where to find them all."""
    key = name.rpartition(".")[2]
    keys = [known.partition(".")[2] for known in RULES]
    near = (
        _with_keys([key])
        or difflib.get_close_matches(name, RULES, n=1, cutoff=_NEAR)
        or _with_keys(difflib.get_close_matches(key, keys, n=1, cutoff=_NEAR))
        or [known for known in RULES if known.startswith(f"{name}.")]
    )
    if not near:
        return "; config/gateway.toml lists all keys"
    names = [variable_of(known) if as_variable else known for known in near[:3]]
    return f"; did you mean {' or '.join(names)}?"


def _with_keys(keys: Collection[str]) -> list[str]:
    return [known for known in RULES if known.partition(".")[2] in keys]
