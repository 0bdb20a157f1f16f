"""Encrypted connections: keys that fit, and keys that do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corekit_zeromq.cache import Cache
from corekit_zeromq.settings import Settings

from corekit.config import BackendURL
from corekit.errors import AuthenticationFailed, ConfigurationError
from corekit.testing.contexts import make_context

from .fake_broker import opened
from .keys import keygen
from .processes import BrokerProcess


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with keys of the broker, of a client and of strangers."""
    directory = tmp_path_factory.mktemp("keys")
    public = {name: keygen(directory, name) for name in ("broker", "client", "stranger", "other")}
    (directory / "allowed").write_text(f"{public['client']} client\n")
    return directory


@pytest.fixture(scope="module")
def closed(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """Return a broker that demands keys."""
    files = {"key_file": keys / "broker.key", "allow_file": keys / "allowed"}
    process = BrokerProcess(tmp_path_factory.mktemp("closed") / "broker", files=files)
    process.start()
    yield process
    process.kill()


def url(broker: BrokerProcess, keys: Path, server: str, own: str) -> str:
    """Return the URL of *broker* with the keys of these names."""
    return f"{broker.url}?server_key={keys}/{server}.pub&key_file={keys}/{own}.key"


async def test_a_client_on_the_list(closed: BrokerProcess, keys: Path) -> None:
    """With the right keys everything works."""
    async with opened(Cache, url(closed, keys, "broker", "client")) as cache:
        space = cache.space("s")
        await space.set("k", b"v", None)
        assert (await space.get("k")).value == b"v"


@pytest.mark.parametrize(
    ("server", "own"), [("broker", "stranger"), ("other", "client")], ids=["own", "server"]
)
async def test_keys_that_do_not_fit(
    closed: BrokerProcess, keys: Path, server: str, own: str
) -> None:
    """A stranger's key, and a wrong key of the broker, fail within a second, not in the end."""
    adapter = Cache(BackendURL.parse(url(closed, keys, server, own)), make_context())
    begun = time.monotonic()
    with pytest.raises(AuthenticationFailed):
        await adapter.open()
    assert time.monotonic() - begun < 1.5


async def test_no_keys_where_keys_are_needed(closed: BrokerProcess) -> None:
    """Without keys the error says that the broker demands them."""
    adapter = Cache(BackendURL.parse(closed.url), make_context())
    with pytest.raises(AuthenticationFailed, match="server_key"):
        await adapter.open()


async def test_keys_where_none_are_known(shared_broker: BrokerProcess, keys: Path) -> None:
    """Keys for a broker without encryption fail as well: nothing is sent in the clear."""
    adapter = Cache(BackendURL.parse(url(shared_broker, keys, "broker", "client")), make_context())
    with pytest.raises(AuthenticationFailed):
        await adapter.open()


def test_bad_key_files(keys: Path, tmp_path: Path) -> None:
    """Files that are missing, readable by others, or hold no key are told by name."""
    good = f"server_key={keys}/broker.pub&key_file={keys}/client.key"
    loose = tmp_path / "loose.key"
    loose.write_bytes((keys / "client.key").read_bytes())
    loose.chmod(0o644)
    empty = tmp_path / "empty"
    empty.write_text('public-key = "short"\nsecret-key = "\'\'\'"\n')
    empty.chmod(0o600)
    settings = Settings.parse(BackendURL.parse(f"zmq://h?{good}"), make_context())
    assert settings.keys is not None
    assert settings.keys.secret.decode() not in repr(settings)
    for options, named in (
        (f"server_key={keys}/broker.pub", "key_file"),
        (good.replace("client.key", "none.key"), "none.key"),
        (good.replace(f"{keys}/client.key", str(loose)), "loose.key"),
        (good.replace(f"{keys}/client.key", str(empty)), "empty"),
        (good.replace(f"{keys}/broker.pub", str(empty)), "empty"),
        (good.replace("client.key", "client.pub"), "client.pub"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            Settings.parse(BackendURL.parse(f"zmq://h?{options}"), make_context())
