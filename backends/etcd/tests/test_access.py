"""Users and passwords, tokens that expire, and TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from corekit_etcd.lock import Lock
from etcd3aio import Etcd3Client, PermissionType, prefix_range_end

from corekit import App
from corekit.adapters import Grant
from corekit.config import BackendURL
from corekit.errors import AuthenticationFailed, BackendUnavailable
from corekit.testing.contexts import make_context

from .certificates import Authority
from .servers import Etcd


@pytest.fixture
def etcd_with_short_tokens(tmp_path: Path) -> Iterator[Etcd]:
    """Return a server whose tokens last for two seconds."""
    server = Etcd(tmp_path / "etcd", 1, "--auth-token-ttl", "2")
    try:
        server.start()
        yield server
    finally:
        server.kill()


async def switch_on_auth(etcd: Etcd) -> None:
    """Let in only root and shop, which may use what begins with corekit/ (and whose is :@)."""
    async with Etcd3Client([etcd.nodes[0].address]) as client:
        auth = client.auth
        assert auth is not None
        await auth.user_add("root", "root")
        await auth.user_grant_role("root", "root")
        await auth.user_add("shop", "se:cr@t")
        await auth.role_add("shop")
        await auth.role_grant_permission(
            "shop",
            "corekit/",
            prefix_range_end("corekit/"),
            perm_type=PermissionType.READWRITE,
        )
        await auth.user_grant_role("shop", "shop")
        await auth.auth_enable()


@asynccontextmanager
async def lock_of(url: str) -> AsyncIterator[Lock]:
    """Open the locks of *url*."""
    adapter = Lock(BackendURL.parse(url), make_context())
    try:
        await adapter.open()
        yield adapter
    finally:
        await adapter.close()


async def taken(adapter: Lock, name: str, wait: float | None = 0) -> Grant:
    """Acquire *name*, which must succeed."""
    grant = await adapter.acquire(name, 5, wait)
    assert grant is not None
    return grant


async def test_a_user_with_a_password(etcd_with_short_tokens: Etcd) -> None:
    """A user that may use the prefix has everything, also after the token has expired."""
    etcd = etcd_with_short_tokens
    await switch_on_auth(etcd)
    url = etcd.url_with("shop:se%3Acr%40t@")
    async with App("shop", cache=url, lock=url) as app, App("shop", lock=url) as other:
        held = await app.lock_manager.acquire("a", ttl=30)
        waiting = asyncio.create_task(other.lock_manager.acquire("a", ttl=30))
        await app.cache.set("key", 1)
        await asyncio.sleep(5)
        assert await app.cache.get("key") == 1
        await held.extend(30)
        # Its watch begins on a stream that was opened with a token that is no longer good.
        second = asyncio.create_task(other.lock_manager.acquire("a", ttl=30))
        await asyncio.sleep(0.2)
        await held.release()
        async with asyncio.timeout(10):
            await (await waiting).release()
            await (await second).release()


async def test_wrong_users(etcd: Etcd) -> None:
    """Wrong passwords, missing users and forbidden prefixes are refused, without the password."""
    await switch_on_auth(etcd)
    for login in ("shop:wr0ng@", "nobody:wr0ng@", ""):
        with pytest.raises(AuthenticationFailed) as caught:
            async with lock_of(etcd.url_with(login)) as adapter:
                await adapter.acquire("a", 5, 0)
        assert "wr0ng" not in str(caught.value)
    url = etcd.url_with("shop:se%3Acr%40t@", "?prefix=other/")
    with pytest.raises(AuthenticationFailed):
        async with lock_of(url) as adapter:
            await adapter.acquire("a", 5, 0)


async def test_a_user_where_authentication_is_off(etcd: Etcd) -> None:
    """A user that the servers would not look at is refused, for it promises what is not there."""
    with pytest.raises(AuthenticationFailed, match="off"):
        async with lock_of(etcd.url_with("shop:secret@")):
            pass


async def test_tls(tmp_path: Path) -> None:
    """With TLS, the server must be who it says, and the client one that it knows."""
    authority = Authority(tmp_path / "own")
    stranger = Authority(tmp_path / "other")
    certificate, key = authority.certificate("server")
    options = ["--cert-file", str(certificate), "--key-file", str(key)]
    options += ["--trusted-ca-file", str(authority.ca), "--client-cert-auth"]
    etcd = Etcd(tmp_path / "etcd", 1, *options, scheme="https")

    def url(ca: Path, client: tuple[Path, Path] | None) -> str:
        own = f"&cert_file={client[0]}&key_file={client[1]}" if client else ""
        return etcd.url_with("", f"?ca_file={ca}{own}&connect_timeout=2")

    try:
        etcd.start()
        client = authority.certificate("client")
        async with lock_of(url(authority.ca, client)) as adapter:
            await adapter.release(await taken(adapter, "a"))
        for bad in (
            url(stranger.ca, client),
            url(authority.ca, None),
            url(authority.ca, stranger.certificate("client")),
            etcd.url.replace("etcds", "etcd") + "?connect_timeout=2",
        ):
            with pytest.raises(BackendUnavailable):
                async with lock_of(bad):
                    pass
    finally:
        etcd.kill()


async def test_an_open_server_is_told(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    """Servers without any authentication that are not on this machine are worth one warning."""
    with caplog.at_level(logging.WARNING, "corekit.etcd"):
        async with lock_of(etcd.url):
            pass
        assert "take every lock" not in caplog.text
        context = make_context()
        url = BackendURL.parse(etcd.url.replace("127.0.0.1", "127.0.0.1.nip.invalid"))
        adapter = Lock(url, context)
        assert not adapter._client.settings.protected
        await adapter.close()
