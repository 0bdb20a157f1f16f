"""What an etcd URL says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from corekit.config import Address, BackendURL
from corekit.errors import ConfigurationError

DEFAULT_PORT = 2379

#: What etcd takes in one request unless it was started with another `--max-request-bytes`.
DEFAULT_MAX_REQUEST = 1536 * 1024

_OPTIONS = ("timeout", "connect_timeout", "max_request", "prefix")
_FILES = ("ca_file", "cert_file", "key_file")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The content of the PEM files that TLS goes by."""

    authorities: bytes | None
    """Who may have signed the servers' certificates; None: those that the system trusts."""

    chain: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach an etcd cluster. Equal settings lead to the same cluster."""

    text: str
    """The URL as logs and errors show it."""

    endpoints: tuple[Address, ...]
    tls: Certificates | None
    username: str | None
    password: str | None = field(repr=False)

    timeout: float
    """How long a call tries to get its answer, over all endpoints, in seconds."""

    connect_timeout: float
    """How long `open` tries to reach any endpoint, in seconds."""

    max_request: int
    """The size of the largest request that the servers take, in bytes."""

    prefix: str
    """What every key begins with."""

    @classmethod
    def parse(cls, url: BackendURL) -> Settings:
        """Return what *url* says; raises ConfigurationError if it says it badly."""
        secure = url.scheme == "etcds"
        if not secure and any(option in url.options for option in _FILES):
            raise ConfigurationError(f"{url}: certificates are for TLS: write etcds://")
        url.refuse_other_options(*_OPTIONS, *(_FILES if secure else ()))
        if (url.username is None) != (url.password is None) or url.username == "":
            raise ConfigurationError(f"{url}: a user and a password go together")
        prefix = url.options.get("prefix", "corekit/")
        return cls(
            text=str(url),
            endpoints=_endpoints(url),
            tls=_certificates(url) if secure else None,
            username=url.username,
            password=url.password,
            timeout=url.seconds("timeout", default=6.0, least=0.1, most=3600),
            connect_timeout=url.seconds("connect_timeout", default=10.0, least=0.1, most=3600),
            max_request=url.whole(
                "max_request", default=DEFAULT_MAX_REQUEST, least=64 * 1024, most=1 << 31
            ),
            prefix=prefix,
        )

    @property
    def protected(self) -> bool:
        """Whether the servers can know who speaks to them, or are on this machine."""
        if self.username is not None or (self.tls is not None and self.tls.key is not None):
            return True
        return all(_is_loopback(address.host) for address in self.endpoints)


def _endpoints(url: BackendURL) -> tuple[Address, ...]:
    if url.path.strip("/"):
        raise ConfigurationError(f"{url}: an etcd URL has no path; see the option prefix")
    if not url.addresses:
        raise ConfigurationError(f"{url}: name the servers, as in etcd://10.0.0.1:{DEFAULT_PORT}")
    for address in url.addresses:
        if address.host == "*" or _ip_is(address.host, "is_unspecified"):
            raise ConfigurationError(f"{url}: {address} is to listen on, not to connect to")
    # With the default port filled in, two of them may have become one.
    full = (Address(each.host, each.port or DEFAULT_PORT) for each in url.addresses)
    return tuple(dict.fromkeys(full))


def _ip_is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ip_address(host), what))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host == "localhost" or _ip_is(host, "is_loopback")


def _certificates(url: BackendURL) -> Certificates:
    files = {option: url.options.get(option) for option in _FILES}
    if (files["cert_file"] is None) != (files["key_file"] is None):
        raise ConfigurationError(f"{url}: cert_file and key_file go together")
    content = {
        option: None if path is None else _read(url, option, path) for option, path in files.items()
    }
    _check(url, files)
    return Certificates(content["ca_file"], content["cert_file"], content["key_file"])


def _read(url: BackendURL, option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{url}: {option} cannot be read: {error}") from error


def _check(url: BackendURL, files: dict[str, str | None]) -> None:
    """Let Python's own TLS look at the files: it says what is wrong, the driver only fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files["ca_file"] is not None:
        try:
            context.load_verify_locations(files["ca_file"])
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(
                f"{url}: ca_file {files['ca_file']} holds no certificate in PEM: {error}"
            ) from error
    if files["cert_file"] is not None:
        try:
            # An empty password, or OpenSSL would ask the terminal for one.
            context.load_cert_chain(files["cert_file"], files["key_file"], password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"{url}: cert_file {files['cert_file']} and its key cannot be used: {error}"
            ) from error
