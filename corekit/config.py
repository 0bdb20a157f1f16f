"""URLs of backends, and settings from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from .arguments import shown
from .errors import ConfigurationError, InvalidType
from .names import CONTROL

_LONGEST_URL = 4096
_SCHEME = re.compile(r"[a-z][a-z0-9.-]*(\+[a-z0-9.-]+)*")
_PORT = re.compile("[0-9]{1,5}")  # not isdigit: digits of other scripts are no port
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:[0-9]{1,5}")
_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_QUOTES = "'\""
_FORBIDDEN = re.compile("[\x00-\x20\x7f-\x9f]")
_SECRETS = ("secret", "pass", "token", "key", "auth")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class BackendURL:
    """A backend's URL in parts: `scheme://user:password@host:port,host:port/path?option=value`.

    The password stays in its attribute: `str` and `repr` mask it, and so do all errors.
    """

    scheme: str
    addresses: tuple[Address, ...] = ()
    """The hosts, in order, without duplicates; empty if the URL names none."""

    path: str = ""
    """What follows the hosts, percent-decoded, with its leading slash."""

    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, *, parameter: str = "backend") -> BackendURL:
        """Return *text* in parts; *parameter* is the name under which errors speak of it.

        Raises ConfigurationError, or InvalidType if it is not a str.
        """
        return _Parser(parameter).parse(text)

    @property
    def name(self) -> str:
        """What stands between scheme and options where no host is meant, as in `memory://NAME`."""
        return ",".join(map(str, self.addresses)) + self.path

    def __str__(self) -> str:
        login = "" if self.username is None else self.username
        if self.password is not None:
            login += ":***"
        hosts = ",".join(map(str, self.addresses))
        options = "&".join(f"{key}={_masked(key, value)}" for key, value in self.options.items())
        return (
            f"{self.scheme}://{login + '@' if login else ''}{hosts}{self.path}"
            f"{'?' + options if options else ''}"
        )

    def __repr__(self) -> str:
        return f"<BackendURL {self}>"

    def refuse_other_options(self, *known: str) -> None:
        """Check that the URL has no options but *known*; raises ConfigurationError."""
        for key in self.options:
            if key not in known:
                allowed = f"allowed: {', '.join(sorted(known))}" if known else "it takes none"
                raise ConfigurationError(f"{self}: unknown option {shown(key)}; {allowed}")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return the option *key*, or *default* if the URL has none.

        Raises ConfigurationError if it is neither 0 nor 1.
        """
        value = self.options.get(key)
        if value is None:
            return default
        if value not in {"0", "1"}:
            raise ConfigurationError(
                f"{self}: {key} must be 0 or 1, not {shown(_masked(key, value))}"
            )
        return value == "1"

    def whole(self, key: str, *, default: int, least: int, most: int) -> int:
        """Return the option *key*, or *default* if the URL has none.

        Raises ConfigurationError if it is no whole number between *least* and *most*.
        """
        value = self.options.get(key)
        if value is None:
            return default
        if not re.fullmatch("[0-9]{1,18}", value) or not least <= int(value) <= most:
            raise ConfigurationError(
                f"{self}: {key} must be a whole number between {least} and {most}, "
                f"not {shown(_masked(key, value))}"
            )
        return int(value)

    def seconds(self, key: str, *, default: float, least: float, most: float) -> float:
        """Return the option *key*, or *default* if the URL has none.

        Raises ConfigurationError if it is no number of seconds between *least* and *most*.
        """
        value = self.options.get(key)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value) or not (
            least <= float(value) <= most
        ):
            raise ConfigurationError(
                f"{self}: {key} must be seconds between {least:g} and {most:g}, "
                f"not {shown(_masked(key, value))}"
            )
        return float(value)


def _masked(key: str, value: str) -> str:
    return "***" if any(word in key.lower() for word in _SECRETS) else value


class _Parser:
    """One parse of one URL. `urllib.parse` knows neither several hosts nor what to refuse.

    No error shows a part of the URL in which a password could stand, also a misplaced one.
    """

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter

    def _error(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._parameter}: {reason}")

    def parse(self, text: str) -> BackendURL:
        scheme, rest = self._split_scheme(text)
        if "#" in rest:
            raise self._error("a URL has no fragment here: percent-encode '#' as %23")
        location, _, query = rest.partition("?")
        authority, slash, path = location.partition("/")
        login, at, hosts = authority.rpartition("@")
        username, colon, password = login.partition(":")
        # An @ behind the hosts: what was taken for them may be a login with a stray '/' or '?'.
        stray = authority and not at and "@" in path + query
        if stray or "@" in login or ":" in password:
            raise self._error("percent-encode '@', ':', '/' and '?' in a user, password or option")
        return BackendURL(
            scheme=scheme,
            addresses=self._addresses(hosts),
            path=self._decoded(slash + path),
            options=self._options(query),
            username=self._decoded(username) if at else None,
            password=self._decoded(password) if colon else None,
        )

    def _split_scheme(self, text: str) -> tuple[str, str]:
        if not isinstance(text, str):
            raise InvalidType(f"{self._parameter} must be a URL (str), not {shown(text)}")
        if not text:
            raise self._error("the URL is empty; leave it out for memory://")
        if len(text) > _LONGEST_URL:
            raise self._error(f"the URL is longer than {_LONGEST_URL} characters")
        if text[0] in _QUOTES or text[-1] in _QUOTES:
            raise self._error("remove the quotes around the URL")
        if _FORBIDDEN.search(text):
            raise self._error("a URL holds no blanks or control characters: percent-encode them")
        scheme, separator, rest = text.partition("://")
        if not separator:
            hint = f"; did you mean zmq://{text}" if _HOST_AND_PORT.fullmatch(text) else ""
            raise self._error(f"the URL has no scheme, such as memory://{hint}")
        if not _SCHEME.fullmatch(scheme.lower()):
            raise self._error("what stands before :// is not the scheme of a URL")
        return scheme.lower(), rest

    def _decoded(self, text: str) -> str:
        if _BAD_PERCENT.search(text):
            raise self._error("a '%' that encodes nothing must be written %25")
        try:
            decoded = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise self._error("the URL's percent-encoding is not UTF-8") from None
        if CONTROL.search(decoded):
            raise self._error("the URL holds control characters")
        return decoded

    def _addresses(self, hosts: str) -> tuple[Address, ...]:
        if not hosts:
            return ()
        return tuple(dict.fromkeys(self._address(part) for part in hosts.split(",")))

    def _address(self, text: str) -> Address:
        if not text:
            raise self._error("there is an empty host between two commas")
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise self._error("an IPv6 address is written [address]:port")
            port, colon = rest[1:], rest[:1]
        else:
            host, colon, port = text.partition(":")
            if ":" in port:
                raise self._error("a host has two ports, or an IPv6 address needs brackets")
        if not host:
            raise self._error("there is a port without a host")
        if not colon:
            return Address(self._decoded(host), None)
        if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
            raise self._error(f"the port of {shown(host)} must be 1 to 65535")
        return Address(self._decoded(host), int(port))

    def _options(self, query: str) -> dict[str, str]:
        options: dict[str, str] = {}
        for part in query.split("&") if query else ():
            key, equals, value = part.partition("=")
            if not key or not equals:
                raise self._error("an option is written name=value")
            key = self._decoded(key)
            if key in options:
                raise self._error(f"the option {shown(key)} stands there twice")
            options[key] = self._decoded(value)
        return options


def component_urls(backend: str | None, **own: str | None) -> dict[str, BackendURL]:
    """Return the URL of each component: its *own*, or *backend*, or `memory://`.

    Raises ConfigurationError or InvalidType, as `BackendURL.parse` does.
    """
    default = BackendURL.parse("memory://" if backend is None else backend)
    return {
        component: default if text is None else BackendURL.parse(text, parameter=component)
        for component, text in own.items()
    }


def from_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the App arguments that COREKIT_* variables set; empty ones count as unset.

    *environment* is `os.environ` unless it is given. Raises ConfigurationError for a value that
    begins with a quote, as some tools that read files of variables leave it there.
    """
    environment = os.environ if environment is None else environment
    settings = {}
    for argument in ("backend", "cache", "pub_sub", "event_queue", "lock", "worker_mode"):
        value = environment.get(f"COREKIT_{argument.upper()}", "").strip()
        if value:
            if value[0] in _QUOTES:
                raise ConfigurationError(f"COREKIT_{argument.upper()}: remove the quotes")
            settings[argument] = value
    return settings
