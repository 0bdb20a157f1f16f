"""URLs and the environment: what is read, what is refused, and that no secret is shown."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corekit.config import Address, BackendURL, from_environment
from corekit.errors import ConfigurationError, InvalidType

#: Any text that a URL can hold when it is percent-encoded.
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


class TestParse:
    """A URL is taken apart into scheme, login, hosts, path and options."""

    def test_all_parts(self):
        """Every part of a full URL arrives decoded in its place."""
        url = BackendURL.parse("etcds://me:p%40ss@a:1,b:2,[::1]:3/a%20dir/x?ca=%2Fca.pem&n=5")
        assert url.scheme == "etcds"
        assert (url.username, url.password) == ("me", "p@ss")
        assert url.addresses == (Address("a", 1), Address("b", 2), Address("::1", 3))
        assert url.path == "/a dir/x"
        assert url.options == {"ca": "/ca.pem", "n": "5"}

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("memory://", ""),
            ("memory://shop", "shop"),
            ("memory://shop/eu", "shop/eu"),
            ("memory://gr\u00f6\u00dfe?copy=1", "gr\u00f6\u00dfe"),
            ("zmq+local://shop", "shop"),
            ("zmq+ipc:///run/a.sock", "/run/a.sock"),
            ("zmq+ipc:///run/a@b:c", "/run/a@b:c"),
        ],
    )
    def test_name(self, text, name):
        """Where no host is meant, what follows the scheme is a name or a path."""
        assert BackendURL.parse(text).name == name

    def test_hosts(self):
        """Ports may be left out, and a host that stands there twice counts once, in order."""
        url = BackendURL.parse("etcd://b,a:1,b,[fe80::1],a:1")
        assert url.addresses == (Address("b", None), Address("a", 1), Address("fe80::1", None))
        assert [str(address) for address in url.addresses] == ["b", "a:1", "[fe80::1]"]

    def test_case(self):
        """The case of the scheme does not matter, that of all else does."""
        assert BackendURL.parse("MEMORY://Shop") == BackendURL.parse("memory://Shop")
        assert BackendURL.parse("memory://Shop") != BackendURL.parse("memory://shop")

    @given(texts, texts, texts, texts, texts)
    def test_encoded_parts_come_back(self, username, password, path, key, value):
        """Whatever a part holds, percent-encoded it arrives, and disturbs no other part."""
        user, word, place, name, content = (
            quote(part, safe="") for part in (username, password, path, key, value)
        )
        url = BackendURL.parse(f"etcd://{user}:{word}@host:1/{place}?{name}={content}")
        assert (url.username, url.password) == (username, password)
        assert (url.path, url.options) == ("/" + path, {key: value})
        assert url.addresses == (Address("host", 1),)

    @given(st.text())
    def test_any_text(self, text):
        """Any text is a URL or a ConfigurationError."""
        for candidate in (text, "zmq://" + text, "zmq://host:1" + text, "zmq://a:b@" + text):
            try:
                BackendURL.parse(candidate)
            except ConfigurationError as error:
                assert str(error).isprintable()  # noqa: PT017 - most texts are refused, not all

    def test_is_a_value(self):
        """A URL can be compared, hashed, copied and pickled, with its password."""
        url = BackendURL.parse("etcd://a:b@h:1/p?x=1")
        for twin in (copy.deepcopy(url), pickle.loads(pickle.dumps(url))):  # noqa: S301 - our own
            assert twin == url
            assert hash(twin) == hash(url)
            assert twin.password == "b"  # noqa: S105 - a made up one


class TestRefuse:
    """What is not a URL is refused, and the error says what to do."""

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "the URL is empty; leave it out for memory://"),
            ("zmq", "has no scheme"),
            ("127.0.0.1:7650", "did you mean zmq://127.0.0.1:7650"),
            ("zmq:/h:1", "has no scheme"),
            ("://h", "is not the scheme"),
            ("1zmq://h", "is not the scheme"),
            ("z mq://h", "no blanks"),
            ("zmq://h:0", "port of 'h' must be 1 to 65535"),
            ("zmq://h:65536", "port of 'h' must be 1 to 65535"),
            ("zmq://h:70000", "port"),
            ("zmq://h:-1", "port"),
            ("zmq://h:abc", "port"),
            ("zmq://h:", "port"),
            ("zmq://h:7_650", "port"),
            ("zmq://h:0x10", "port"),
            ("zmq://h:\uff17\uff16", "port"),
            ("zmq://h:99999999999999999999", "port"),
            ("zmq://:7650", "a port without a host"),
            ("zmq://[]:7650", "a port without a host"),
            ("zmq://::1:7650", "brackets"),
            ("zmq://[::1:7650", "is written [address]:port"),
            ("zmq://[::1]7650", "is written [address]:port"),
            ("etcd://a:1,b:2,,c", "empty host between two commas"),
            ("etcd://a:1,", "empty host"),
            ("zmq://me:1234/secret@h:1", "percent-encode"),
            ("zmq://me:1234?a=secret@h:1", "percent-encode"),
            ("zmq://h:1#x", "fragment"),
            ("zmq://h:1 ", "no blanks"),
            ("zmq://h:1\n", "no blanks"),
            ("zmq://h\t:1", "no blanks"),
            ("zmq://h\x00:1", "no blanks"),
            ("zmq://h\x85:1", "no blanks"),
            ("zmq://h%0A:1", "control characters"),
            ("zmq://h/%00", "control characters"),
            ("zmq://h/%ff", "not UTF-8"),
            ("zmq://h/100%", "%25"),
            ("zmq://h?x=%zz", "%25"),
            ("'zmq://h:1'", "remove the quotes"),
            ('zmq://h:1"', "remove the quotes"),
            ("memory://?copy", "name=value"),
            ("memory://?=1", "name=value"),
            ("memory://?copy=1&", "name=value"),
            ("memory://?a=1&a=2", "'a' stands there twice"),
            ("memory://?a=1&%61=2", "'a' stands there twice"),
            ("zmq://" + "h" * 1_000_000, "longer than 4096"),
        ],
    )
    def test_text(self, text, reason):
        """Each kind of mistake is named, together with the parameter, in a short text."""
        with pytest.raises(ConfigurationError) as caught:
            BackendURL.parse(text, parameter="lock")
        assert str(caught.value).startswith("lock: ")
        assert reason in str(caught.value)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("value", [123, None, b"memory://", Path("memory://"), ["memory://"]])
    def test_type(self, value):
        """Anything but a str is an InvalidType."""
        with pytest.raises(InvalidType, match="lock must be a URL"):
            BackendURL.parse(value, parameter="lock")


class TestSecrets:
    """No secret leaves the attribute `password`."""

    def test_shown(self):
        """The str and the repr of a URL mask the password and options that look like secrets."""
        url = BackendURL.parse("etcd://me:hunter2@h:1/p?token=hunter2&API_KEY=hunter2&copy=1")
        assert str(url) == "etcd://me:***@h:1/p?token=***&API_KEY=***&copy=1"
        assert repr(url) == f"<BackendURL {url}>"
        assert "hunter2" not in f"{url} {url!r} {[url]}"

    def test_errors_about_options(self):
        """Errors about options show the URL masked, and no value that looks like a secret."""
        url = BackendURL.parse("etcd://me:hunter2@h:1?token=hunter2&copy=2")
        for call in (
            lambda: url.flag("copy"),
            lambda: url.whole("token", default=1, least=1, most=5),
            lambda: url.refuse_other_options("copy"),
        ):
            with pytest.raises(ConfigurationError) as caught:
                call()
            assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            "etcd://me:hunter2@a@h:1",
            "etcd://me:a@hunter2@h:1",
            "etcd://me:hunter2:a@h:1",
            "etcd://me:a:hunter2@h:1",
            "etcd://me:hunter2/a@h:1",
            "etcd://me:a/hunter2@h:1",
            "etcd://me:hunter2/a/b@h:1",
            "etcd://me:hunter2?a@h:1",
            "etcd://me:a?hunter2@h:1",
            "etcd://me:a?b=c&hunter2@h:1",
            "etcd://me:hunter2%@h:1",
            "etcd://me:hunter2%ff@h:1",
            "etcd://me:hunter2#@h:1",
            "etcd://me:hunter2@h:0",
            "etcd://me:hunter2@h:1?",
            "etcd://me:hunter2@h:1?x",
            "etcd://h:1?hunter2",
            "etcd//me:hunter2@h://x",
            "etcd://me:hunter2",
            "etcd://me:a:hunter2",
            "etcd://[hunter2",
            "me:hunter2@h:1",
            "h:1?token=hunter2",
            "'etcd://me:hunter2@h:1'",
            "etcd://me:hunter2@h:1\n",
        ],
    )
    def test_refused_urls(self, text):
        """A password that was not encoded, or stands in a wrong place, is not shown either."""
        try:
            url = BackendURL.parse(text)
        except ConfigurationError as error:
            assert "hunter2" not in str(error)  # noqa: PT017 - some of these URLs are good
            assert error.__cause__ is None  # noqa: PT017
        else:
            assert url.password == "hunter2"  # noqa: S105 - a made up one
            assert "hunter2" not in repr(url)


class TestOptions:
    """Options are read strictly, by name, and the error says what is allowed."""

    def test_flag(self):
        """A flag is 0 or 1, and its default where it is missing."""
        url = BackendURL.parse("memory://?a=1&b=0&c=yes&d=2&e=")
        assert url.flag("a") is True
        assert url.flag("b", default=True) is False
        assert (url.flag("x"), url.flag("x", default=True)) == (False, True)
        for key in "cde":
            with pytest.raises(ConfigurationError, match=f"{key} must be 0 or 1, not"):
                url.flag(key)

    def test_whole(self):
        """A whole number is digits between its bounds."""
        url = BackendURL.parse("memory://?a=5&b=0&c=11&d=5.0&e=-5&f=0x5&g=\uff15&h=" + "9" * 50)
        assert url.whole("a", default=1, least=1, most=10) == 5
        assert url.whole("x", default=1, least=1, most=10) == 1
        for key in "bcdefgh":
            with pytest.raises(ConfigurationError, match=f"{key} must be a whole number between 1"):
                url.whole(key, default=1, least=1, most=10)

    def test_seconds(self):
        """A duration is a decimal number between its bounds."""
        url = BackendURL.parse("memory://?a=0.5&b=0.01&c=11&d=nan&e=inf&f=1e1&g=-1&h=.5&i=5")
        assert url.seconds("a", default=1, least=0.1, most=10) == 0.5
        assert url.seconds("i", default=1, least=0.1, most=10) == 5.0
        assert url.seconds("x", default=1, least=0.1, most=10) == 1
        for key in "bcdefgh":
            with pytest.raises(ConfigurationError, match=f"{key} must be seconds between 0.1 and"):
                url.seconds(key, default=1, least=0.1, most=10)

    def test_unknown(self):
        """An option that nobody reads is refused, with the ones that are allowed."""
        url = BackendURL.parse("memory://?copy=1&max=5")
        url.refuse_other_options("copy", "max")
        with pytest.raises(ConfigurationError, match="unknown option 'max'; allowed: copy"):
            url.refuse_other_options("copy")
        with pytest.raises(ConfigurationError, match="unknown option 'copy'; it takes none"):
            url.refuse_other_options()


class TestEnvironment:
    """COREKIT_* variables become arguments of the App."""

    def test_known_variables(self):
        """Each variable is read under its own name; others are left alone."""
        names = ("backend", "cache", "pub_sub", "event_queue", "lock", "worker_mode")
        environment = {f"COREKIT_{name.upper()}": name for name in names}
        assert from_environment(environment | {"COREKIT_X": "x", "BACKEND": "y"}) == {
            name: name for name in names
        }

    def test_blanks(self):
        """Blanks and line endings around a value are dropped; an empty one counts as unset."""
        environment = {
            "COREKIT_BACKEND": " zmq://h:1\r\n",
            "COREKIT_LOCK": "",
            "COREKIT_CACHE": " ",
        }
        assert from_environment(environment) == {"backend": "zmq://h:1"}

    @pytest.mark.parametrize("value", ["'zmq://h:1'", '"zmq://h:1"', " '-' "])
    def test_quotes(self, value):
        """Quotes that a file of variables left there are refused, without showing the value."""
        with pytest.raises(ConfigurationError, match=r"^COREKIT_BACKEND: remove the quotes$"):
            from_environment({"COREKIT_BACKEND": value})

    def test_process(self, monkeypatch):
        """Without an argument, it is the process's environment."""
        monkeypatch.setenv("COREKIT_LOCK", "memory://x")
        assert from_environment()["lock"] == "memory://x"
