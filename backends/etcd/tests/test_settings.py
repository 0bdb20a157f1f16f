"""URLs: what they mean, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from corekit_etcd.settings import Settings

from corekit.config import BackendURL
from corekit.errors import ConfigurationError

from .certificates import Authority


def parse(text: str) -> Settings:
    """Return what the URL *text* says."""
    return Settings.parse(BackendURL.parse(text))


def test_endpoints() -> None:
    """Ports have a default, and an endpoint that stands there twice counts once."""
    found = parse("etcd://a,b:1,a:2379,[::1]")
    assert [str(each) for each in found.endpoints] == ["a:2379", "b:1", "[::1]:2379"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("etcd://", "name the servers"),
        ("etcd://a:1,b:2,,c", "empty host"),
        ("etcd://a/path", "no path"),
        ("etcd://0.0.0.0:2379", "to listen on"),
        ("etcd://*", "to listen on"),
        ("etcd://user@a", "go together"),
        ("etcd://:secret@a", "go together"),
        ("etcd://a?ca_file=/x", "etcds://"),
        ("etcd://a?nonsense=1", "unknown option"),
        ("etcd://a?timeout=x", "timeout"),
        ("etcd://a?max_request=1", "max_request"),
        ("etcds://a?ca_file=/no/such/file", "/no/such/file"),
        ("etcds://a?cert_file=/x", "go together"),
    ],
)
def test_bad_urls(url: str, told: str) -> None:
    """A bad URL is refused when the adapter is built, with the reason and without secrets."""
    with pytest.raises(ConfigurationError) as caught:
        parse(url)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_bad_certificates(tmp_path: Path) -> None:
    """Certificates that cannot be used are told apart before anything connects."""
    authority = Authority(tmp_path / "a")
    certificate, _ = authority.certificate("one")
    _, other_key = authority.certificate("two")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"nonsense\.pem"):
        parse(f"etcds://a?ca_file={nonsense}")
    with pytest.raises(ConfigurationError, match=r"one\.pem"):
        parse(f"etcds://a?cert_file={certificate}&key_file={other_key}")


def test_system_authorities_by_default() -> None:
    """TLS without files trusts whom the system trusts; it is never left unverified."""
    found = parse("etcds://a")
    assert found.tls is not None
    assert found.tls.authorities is None


def test_secrets_are_not_shown() -> None:
    """Neither the settings nor their text show the password."""
    found = parse("etcd://shop:hidden@10.0.0.1")
    assert "hidden" not in repr(found)
    assert "hidden" not in found.text


@pytest.mark.parametrize(
    ("url", "protected"),
    [
        ("etcd://127.0.0.1", True),
        ("etcd://localhost,[::1]", True),
        ("etcd://10.0.0.1", False),
        ("etcd://127.0.0.1,10.0.0.1", False),
        ("etcd://user:password@10.0.0.1", True),
        ("etcds://10.0.0.1", False),
    ],
)
def test_who_is_let_in(url: str, protected: bool) -> None:
    """It is known whether anybody who reaches the servers may do anything."""
    assert parse(url).protected is protected
