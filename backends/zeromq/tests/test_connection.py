"""The connection against peers that are away, hang, lie, or are something else."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import msgpack
import pytest
from corekit_zeromq.cache import Cache
from corekit_zeromq.client import _connections
from corekit_zeromq.event_queue import EventQueue
from corekit_zeromq.lock import Lock
from corekit_zeromq.protocol import Op, Reply, packed
from corekit_zeromq.pub_sub import PubSub

from corekit.config import BackendURL
from corekit.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
    CorekitError,
    NotOpenError,
    OutcomeUnknown,
    QueueFull,
    VersionMismatch,
)
from corekit.testing import eventually, free_port
from corekit.testing.contexts import make_context

from .batches import messages, payloads_of, publish
from .fake_broker import HEARTBEAT, FakeBroker, opened
from .receiver import Receiver


@pytest.fixture(autouse=True)
def nothing_left() -> object:
    """Check that no test leaves a connection behind."""
    yield
    assert not _connections


async def refusal(url: str) -> CorekitError:
    """Return the error with which opening an adapter fails."""
    adapter = Cache(BackendURL.parse(url), make_context())
    with pytest.raises(CorekitError) as info:
        await adapter.open()
    return info.value


# -- opening


async def test_nobody_is_there() -> None:
    """Opening fails after its time, and the error names the URL and the reason."""
    url = f"zmq://127.0.0.1:{free_port()}?connect_timeout=0.3"
    before = time.monotonic()
    error = await refusal(url)
    assert type(error) is BackendUnavailable
    assert time.monotonic() - before < 2
    assert url in str(error)
    assert "nothing answers" in str(error)


async def test_a_host_that_does_not_exist() -> None:
    """A name that cannot be resolved is told as that."""
    error = await refusal("zmq://nosuchhost.invalid:7650?connect_timeout=0.5")
    assert type(error) is BackendUnavailable
    assert "nosuchhost.invalid" in str(error)


@pytest.mark.parametrize(
    "greeting",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown\r\n"],
    ids=["silent", "ssh", "http", "redis"],
)
async def test_something_else_answers(greeting: bytes) -> None:
    """A server of another kind behind the port is told as something that is not a broker."""
    active = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal active
        active += 1
        if greeting:
            await reader.read(10)
            writer.write(greeting)
        with suppress(ConnectionError):
            while await reader.read(100):
                pass
        writer.close()
        active -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await refusal(f"zmq://127.0.0.1:{port}?connect_timeout=0.6")
    server.close()
    await eventually(lambda: not active)
    assert type(error) is BackendUnavailable
    assert "something that is not a corekit broker" in str(error)


async def test_a_zeromq_peer_that_talks_something_else() -> None:
    """A ROUTER that answers with frames of another kind is not a broker either."""
    async with FakeBroker() as fake:
        fake.beating = False
        fake.scripts[Op.HELLO] = lambda _: [["hello", "world"]]
        opening = asyncio.create_task(refusal(fake.url + "?connect_timeout=0.5"))
        await eventually(lambda: fake.hellos)
        await fake.send(b"what?")
        error = await opening
    assert type(error) is BackendUnavailable
    assert "something that is not a corekit broker" in str(error)


async def test_another_version_of_the_protocol() -> None:
    """REFUSED for the version ends the opening at once, with both versions in the text."""
    async with FakeBroker() as fake:
        text = "the broker speaks version 2 of the protocol, the client 1"
        fake.scripts[Op.HELLO] = lambda _: [[Reply.REFUSED, "version_mismatch", text]]
        before = time.monotonic()
        error = await refusal(fake.url)
    assert type(error) is VersionMismatch
    assert text in str(error)
    assert time.monotonic() - before < 2


async def test_a_broker_that_comes_up_late() -> None:
    """Opening waits for a broker that is started after its clients."""
    port = free_port()
    adapter = Cache(BackendURL.parse(f"zmq://127.0.0.1:{port}"), make_context())
    opening = asyncio.create_task(adapter.open())
    await asyncio.sleep(0.3)
    async with FakeBroker() as fake:
        fake._socket.bind(f"tcp://127.0.0.1:{port}")
        await opening
        await adapter.close()


async def test_cancelled_and_closed_while_opening() -> None:
    """An opening that is cancelled leaves nothing; one that was closed meanwhile does not open."""
    url = BackendURL.parse(f"zmq://127.0.0.1:{free_port()}")
    adapter = Cache(url, make_context())
    opening = asyncio.create_task(adapter.open())
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with FakeBroker() as fake:
        del fake.scripts[Op.HELLO]
        other = Cache(BackendURL.parse(fake.url), make_context())
        opening = asyncio.create_task(other.open())
        await eventually(lambda: fake.hellos)
        await other.close()
        await fake.say(*fake.welcome([]), number=0)
        with pytest.raises(NotOpenError):
            await opening


async def test_a_weaker_broker_is_refused() -> None:
    """A queue whose broker is less durable than the URL says does not open."""
    async with FakeBroker() as fake:
        fake.info["durability"] = "relaxed"
        with pytest.raises(ConfigurationError, match="durability=relaxed"):
            async with opened(EventQueue, fake.url):
                pass
        async with opened(EventQueue, fake.url + "?durability=relaxed"):
            pass


# -- sharing


async def test_adapters_of_an_app_share_a_connection() -> None:
    """All adapters of one App on one URL say HELLO once; the last that closes says BYE."""
    async with FakeBroker() as fake:
        context, url = make_context(), BackendURL.parse(fake.url)
        cache, lock = Cache(url, context), Lock(url, context)
        await asyncio.gather(cache.open(), lock.open())
        other = Cache(url, make_context())
        await other.open()
        assert len(fake.hellos) == 2
        await cache.close()
        assert not fake.commands(Op.BYE)
        await lock.close()
        await fake.heard(Op.BYE)
        await other.close()


async def test_a_second_adapter_of_a_kind_has_its_own() -> None:
    """Two adapters of one kind do not hear each other's messages: they have two connections."""
    async with FakeBroker() as fake:
        context, url = make_context(), BackendURL.parse(fake.url)
        adapters = [Cache(url, context), Cache(url, context)]
        for adapter in adapters:
            await adapter.open()
        assert len(fake.hellos) == 2
        for adapter in adapters:
            await adapter.close()


# -- requests


async def test_answers_find_their_questions() -> None:
    """Answers in any order reach the calls that asked."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        calls = [asyncio.create_task(queue.purge(name)) for name in "abc"]
        asked = await fake.heard(Op.PURGE, 3)
        for command in reversed(asked):
            await fake.say([Reply.OK, command[1], ord(command[2])])
        assert await asyncio.gather(*calls) == [97, 98, 99]


async def test_no_answer_comes() -> None:
    """After the time-out a change is OutcomeUnknown, with the message's id; a question is not."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url + "?timeout=0.2") as queue:
        with pytest.raises(OutcomeUnknown) as info:
            await queue.publish("q", "the-id", b"")
        assert info.value.message_id == "the-id"
        with pytest.raises(OutcomeUnknown):
            await queue.purge("q")
        with pytest.raises(BackendUnavailable) as question:
            await queue.stats("q")
        assert not isinstance(question.value, OutcomeUnknown)


async def test_what_was_never_sent_did_not_happen() -> None:
    """Without a connection a call fails after the time-out, and is not sent when it is back."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url + "?timeout=0.3") as queue:
        fake.scripts[Op.HELLO] = lambda _: [[Reply.REFUSED, "backend_unavailable", "not now"]]
        queue._client.connection.link._lost()
        calls = [queue.publish("q", "the-id", b""), queue.purge("q"), queue.stats("q")]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert type(error) is BackendUnavailable
        fake.scripts[Op.HELLO] = fake.welcome
        fake.answer(Op.REQUEUE, None)
        await queue.requeue("q", "x")
        assert {command[0] for command in fake.said} == {Op.REQUEUE}


async def test_a_cancelled_call_leaves_no_trace() -> None:
    """A call that is cancelled before it was sent is not sent; its late answer harms nobody."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        queue._client.connection.link._lost()
        call = asyncio.create_task(queue.purge("q"))
        await asyncio.sleep(0)
        call.cancel()
        other = asyncio.create_task(queue.purge("other"))
        ((_, rid, channel),) = await fake.heard(Op.PURGE)
        assert channel == "other"
        other.cancel()
        await asyncio.sleep(0)
        await fake.say([Reply.OK, rid, 5], [Reply.OK, rid, 5], [Reply.FAIL, 99, "queue_full", ""])
        fake.answer(Op.PURGE, 1)
        assert await queue.purge("q") == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("queue_full", QueueFull),
        ("backend_unavailable", BackendUnavailable),
        ("from_the_future", BackendRefused),
        ("backend", BackendRefused),
        (None, BackendRefused),
    ],
)
async def test_failures_become_errors(code: str, kind: type[BackendError]) -> None:
    """FAIL raises the error of its code; text from outside is cut and made printable."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.scripts[Op.PURGE] = lambda command: [
            [Reply.FAIL, command[1], code, "a\x00\nb" + "x" * 1_000_000]
        ]
        with pytest.raises(kind) as info:
            await queue.purge("q")
        assert type(info.value) is kind
        assert str(info.value).startswith("a??b")
        assert len(str(info.value)) < 1000


async def test_nothing_joins_what_was_given_up() -> None:
    """What an adapter had not sent when it was closed is not sent, what is published then is."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        connection = queue._client.connection
        call = asyncio.create_task(queue.publish("q", "old", b"x"))
        await asyncio.sleep(0)
        connection.leave(queue)
        _, published = connection.enqueue(queue, "q", ["new", b"x"])
        with pytest.raises(NotOpenError):
            await call
        assert await published == "new"
        assert [command[3] for command in fake.commands(Op.QUEUE_PUBLISH)] == [[["new", b"x"]]]


async def test_pending_calls_end_with_the_adapter() -> None:
    """Closing an adapter ends its pending calls with NotOpenError, and nobody else's."""
    async with FakeBroker() as fake:
        context, url = make_context(), BackendURL.parse(fake.url)
        queue, cache = EventQueue(url, context), Cache(url, context)
        await queue.open()
        await cache.open()
        fake.answer(Op.CACHE_KEYS, ["k"])
        call = asyncio.create_task(queue.purge("q"))
        await fake.heard(Op.PURGE)
        await queue.close()
        with pytest.raises(NotOpenError):
            await call
        with pytest.raises(NotOpenError):
            await queue.purge("q")
        assert await cache.space("s").keys() == ["k"]
        await cache.close()


# -- the window


async def test_publishers_wait_for_a_full_window() -> None:
    """A broker that confirms nothing makes publishers wait, for a time; then nothing was sent."""
    async with FakeBroker() as fake:
        fake.confirming = False
        async with opened(PubSub, fake.url + "?timeout=0.3", Receiver()) as pub_sub:
            payload = b"x" * 500_000
            sent = 0
            error = None
            while error is None:
                try:
                    await pub_sub.publish("c", payload)
                    sent += 1
                except BackendUnavailable as full:
                    error = full
            assert 10 < sent < 30
            assert "nothing was sent" in str(error)
            fake.confirming = True
            await pub_sub.publish("c", b"last")
            await eventually(lambda: fake.said and fake.said[-1] == publish("c", b"last"))
            assert len(fake.commands(Op.PUBLISH)) == sent + 1


async def test_waiting_publishers_keep_their_order() -> None:
    """Payloads of overlapping calls leave in the order of the calls, also after waiting."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        pub_sub._client.connection.link._lost()
        calls = [asyncio.create_task(pub_sub.publish("c", str(n).encode())) for n in range(20)]
        await asyncio.sleep(0)
        calls[7].cancel()
        await asyncio.wait(calls)
        await pub_sub.publish("c", b"end")
        await eventually(lambda: fake.said and payloads_of(fake.said[-1])[-1] == b"end")
        payloads = [one for command in fake.commands(Op.PUBLISH) for one in payloads_of(command)]
        assert payloads == [str(n).encode() for n in range(20) if n != 7] + [b"end"]


async def test_a_publisher_that_never_waits() -> None:
    """A loop of publishes does not keep the event loop, or the sending, from going on."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        for _ in range(5000):
            await pub_sub.publish("c", b"x" * 100)
        assert turns >= 5
        counting.cancel()
        await eventually(lambda: sum(c[2] for c in fake.said) == 5000)


async def test_a_flood_is_taken_in_portions() -> None:
    """However much arrives at once, receivers get a turn of the loop for each portion."""

    class Slow(Receiver):
        turn = 0
        most = 0
        here = 0

        def messages(self, channel: str, payloads: list[bytes]) -> None:
            super().messages(channel, payloads)
            self.here = self.here + len(payloads) if self.turn == turns else len(payloads)
            self.turn = turns
            self.most = max(self.most, self.here)

    turns = 0
    async with FakeBroker() as fake, opened(PubSub, fake.url, receiver := Slow()) as pub_sub:
        await pub_sub.subscribe("c")
        payloads = [str(number).encode() for number in range(3000)]
        await fake.say(messages("c", 1, payloads[:1000], payloads[1000:1500]))
        await fake.say(*(messages("c", n + 1, payloads[n : n + 10]) for n in range(1500, 3000, 10)))
        while len(receiver.arrived) < 3000:
            turns += 1
            await asyncio.sleep(0)
        assert receiver.arrived == payloads
        assert receiver.most <= 512
        assert len(fake.hellos) == 1


# -- the link


async def test_silence_means_lost() -> None:
    """A broker that hangs is noticed after three heartbeats, and asked again."""
    async with FakeBroker() as fake, opened(Cache, fake.url):
        fake.beating = False
        before = time.monotonic()
        await eventually(lambda: len(fake.hellos) == 2)
        assert HEARTBEAT * 3 <= time.monotonic() - before < HEARTBEAT * 3 + 2


async def test_heartbeats_keep_the_link() -> None:
    """While nothing else is said both sides beat, and the link stays."""
    async with FakeBroker() as fake, opened(Cache, fake.url):
        await asyncio.sleep(HEARTBEAT * 8)
        assert len(fake.hellos) == 1
        beats = [frame for frame in fake.frames if frame[0] == 0 and not frame[2]]
        assert len(beats) >= 7


async def test_a_lost_connection_is_resumed() -> None:
    """Over the next connection just what the broker lacks is sent again, in order, once."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.resumes = True
        first = asyncio.create_task(queue.purge("first"))
        await fake.heard(Op.PURGE)
        queue._client.connection.link._lost()
        second = asyncio.create_task(queue.purge("second"))
        (_, one), (_, two) = ((c[2], c[1]) for c in await fake.heard(Op.PURGE, 2))
        await fake.say([Reply.OK, one, 1], [Reply.OK, two, 2])
        assert await asyncio.gather(first, second) == [1, 2]
        assert [command[2] for command in fake.commands(Op.PURGE)] == ["first", "second"]
        assert fake.hellos[1][3:5] == [b"session", b"secret"]


async def test_an_unknown_session_is_begun_anew() -> None:
    """UNKNOWN makes the client say HELLO over a fresh connection."""
    async with FakeBroker() as fake, opened(Cache, fake.url):
        await fake.say([Reply.UNKNOWN], number=0)
        await eventually(lambda: len(fake.hellos) == 2)


@pytest.mark.parametrize(
    "frame",
    [b"garbage", b"\x93\x01\x00\x91\x91\x0a", b"\x93\x09\x00\x90", b"\x93\x00\xcd\xff\xff\x90"],
    ids=["no-frame", "malformed-command", "out-of-order", "confirms-too-much"],
)
async def test_nonsense_costs_the_session(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that breaks the protocol is told in the log, and spoken to in a new session."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        with caplog.at_level(logging.ERROR):
            await fake.send(frame)
            await eventually(lambda: len(fake.hellos) == 2)
        assert "breaks the protocol" in caplog.text
        assert fake.hellos[1][3:5] == [b"", b""]
        await pub_sub.publish("c", b"1")
        await fake.heard(Op.PUBLISH)


async def test_what_is_unknown_is_ignored() -> None:
    """Replies of a later version, and messages for nobody, disturb nothing."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        await fake.say([77, "new"], [[77]], messages("c", 1, [b"1"]), [Reply.DELIVERIES, 4, []])
        await pub_sub.subscribe("c")
        assert len(fake.hellos) == 1


async def test_absence_is_logged_rarely(caplog: pytest.LogCaptureFixture) -> None:
    """An absence is told after a second, not at every attempt; so is its end."""
    async with FakeBroker() as fake, opened(Cache, fake.url):
        fake.scripts[Op.HELLO] = lambda _: [[Reply.REFUSED, "backend_unavailable", "not now"]]
        with caplog.at_level(logging.WARNING, "corekit.zeromq"):
            await fake.say([Reply.UNKNOWN], number=0)
            await eventually(lambda: "no connection" in caplog.text)
            fake.scripts[Op.HELLO] = fake.welcome
            await eventually(lambda: "connected again" in caplog.text)
        assert caplog.text.count("no connection") == 1


# -- a new session


async def test_subscriptions_come_back() -> None:
    """In a new session the client subscribes again, with epoch and number; gaps are told."""
    receiver = Receiver()
    async with FakeBroker() as fake, opened(PubSub, fake.url, receiver) as pub_sub:
        await pub_sub.subscribe("c")
        await fake.say(messages("c", 1, [b"1", b"2"]))
        await eventually(lambda: len(receiver.arrived) == 2)
        fake.epoch = 2
        fake.scripts[Op.SUBSCRIBE] = lambda command: [
            [Reply.OK, command[1], 7],
            [Reply.GAP, "c", 7],
            messages("c", 7, [b"7"]),
        ]
        await fake.say([Reply.UNKNOWN], number=0)
        await eventually(lambda: receiver.arrived == [b"1", b"2", None, b"7"])
        assert fake.commands(Op.SUBSCRIBE)[1][2:] == ["c", 1, 3]


async def test_numbers_are_watched() -> None:
    """A hole in the numbers is a gap, and what came before is not given again."""
    receiver = Receiver()
    async with FakeBroker() as fake, opened(PubSub, fake.url, receiver) as pub_sub:
        await pub_sub.subscribe("c")
        await fake.say(messages("c", 1, [b"1", b"2"]), messages("c", 2, [b"2", b"3"]))
        await fake.say(messages("c", 5, [b"5"]), messages("c", 1, [b"1"]))
        await eventually(lambda: len(receiver.arrived) >= 5)
        assert receiver.arrived == [b"1", b"2", b"3", None, b"5"]


@pytest.mark.parametrize(
    "bad",
    [
        [2, b"\xc1"],
        [2, packed([b"x"])],
        [2, packed([b"x", b"y", b"z"])],
        [2, packed([b"x", b"y"])[:-1]],
        [2, packed([b"x", b"y"]) + b"z"],
        [2, msgpack.packb([b"x", "text"])],
        [2, msgpack.packb([[b"x", b"y"], [b"x", b"y"]])],
        [2, msgpack.packb({b"x": b"y"})],
        [2, msgpack.packb(b"xy")],
    ],
    ids=["garbage", "fewer", "more", "cut", "trailing", "text", "nested", "map", "bytes"],
)
async def test_a_bad_batch_costs_its_own_messages(
    bad: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a gap of as many numbers, told at once and in the log; the session goes on."""
    receiver = Receiver()
    async with FakeBroker() as fake, opened(PubSub, fake.url, receiver) as pub_sub:
        await pub_sub.subscribe("c")
        _, _, _, good = messages("c", 1, [b"1"])
        with caplog.at_level(logging.WARNING, "corekit.zeromq"):
            await fake.say([Reply.MESSAGES, "c", 1, [*good, bad]])
            await eventually(lambda: receiver.arrived == [b"1", None])
            await fake.say([Reply.MESSAGES, "c", 4, [*good, bad, *good]], messages("c", 8, [b"8"]))
            await eventually(lambda: receiver.arrived[2:] == [b"1", None, b"1", b"8"])
        assert caplog.text.count("could not be read") == 1
        assert len(fake.hellos) == 1


async def test_a_bad_batch_that_came_before_is_no_gap() -> None:
    """What is dropped by its number may be anything."""
    receiver = Receiver()
    async with FakeBroker() as fake, opened(PubSub, fake.url, receiver) as pub_sub:
        await pub_sub.subscribe("c")
        await fake.say(
            messages("c", 1, [b"1", b"2", b"3"]),
            [Reply.MESSAGES, "c", 1, [[2, b"bad"]]],
            messages("c", 4, [b"4"]),
        )
        await eventually(lambda: len(receiver.arrived) >= 4)
        assert receiver.arrived == [b"1", b"2", b"3", b"4"]


async def test_publishes_to_a_queue_are_repeated() -> None:
    """A publish whose answer was lost with the session is sent again with the same id."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        publishing = asyncio.create_task(queue.publish("q", "the-id", b"x", dedup_id="d"))
        first = (await fake.heard(Op.QUEUE_PUBLISH))[0]
        fake.answer(Op.QUEUE_PUBLISH, None)
        await fake.say([Reply.UNKNOWN], number=0)
        assert await publishing == "the-id"
        assert fake.commands(Op.QUEUE_PUBLISH)[1][2:] == first[2:]


async def test_what_is_published_together_shares_a_request() -> None:
    """Messages for one queue in one turn of the loop are one request, in order, one frame."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        calls = [queue.publish(q, f"{q}{n}", b"x") for n in range(3) for q in "ab"]
        calls.append(queue.publish("a", "later", b"x", delay=2.0, dedup_id="d"))
        ids = await asyncio.gather(*calls)
        assert ids == ["a0", "b0", "a1", "b1", "a2", "b2", "later"]
        assert [command[2:] for command in fake.commands(Op.QUEUE_PUBLISH)] == [
            ["a", [["a0", b"x"], ["a1", b"x"], ["a2", b"x"], ["later", b"x", 2.0, "d"]]],
            ["b", [["b0", b"x"], ["b1", b"x"], ["b2", b"x"]]],
        ]
        assert sum(bool(commands) for _, _, commands in fake.frames) == 2  # HELLO, and these


async def test_a_lone_publish_waits_for_nobody() -> None:
    """It leaves at the end of the turn of the loop in which it was called, without a timer."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        session = queue._client.connection.session
        call = asyncio.create_task(queue.publish("q", "m", b"x"))
        await asyncio.sleep(0)
        assert session.transmitted == 0
        await asyncio.sleep(0)
        assert session.transmitted == 1
        assert await call == "m"


async def test_each_message_has_its_own_outcome() -> None:
    """Of those published together one may be a duplicate and one refused; the others are not."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, [None, "first", ["queue_full", "no room"], None])
        calls = [queue.publish("q", f"m{n}", b"x") for n in range(4)]
        own, duplicate, refused, last = await asyncio.gather(*calls, return_exceptions=True)
        assert (own, duplicate, last) == ("m0", "first", "m3")
        assert type(refused) is QueueFull
        assert str(refused) == "no room"


@pytest.mark.parametrize("code", ["queue_full", "invalid_argument"])
async def test_a_refused_publish_fails_each_message(code: str) -> None:
    """FAIL for the request as a whole is an error for everybody in it, not one that is shared."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.scripts[Op.QUEUE_PUBLISH] = lambda command: [[Reply.FAIL, command[1], code, "no"]]
        calls = [queue.publish("q", f"m{n}", b"x") for n in range(3)]
        raised = await asyncio.gather(*calls, return_exceptions=True)
        assert {error.code for error in raised} == {code}
        assert len({id(error) for error in raised}) == 3


async def test_each_message_without_an_answer_is_named() -> None:
    """OutcomeUnknown has the id of its own message, also for those published together."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url + "?timeout=0.2") as queue:
        calls = [queue.publish("q", f"m{n}", b"x") for n in range(3)]
        raised = await asyncio.gather(*calls, return_exceptions=True)
        assert [error.message_id for error in raised] == ["m0", "m1", "m2"]


async def test_order_among_publishes_and_purges() -> None:
    """What is published after a purge was called comes after it, in the same turn, too."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        fake.answer(Op.PURGE, 1)
        publish = queue.publish
        await asyncio.gather(
            publish("q", "1", b""), publish("q", "2", b""), queue.purge("q"), publish("q", "3", b"")
        )
        assert [(command[0], len(command[-1])) for command in fake.said] == [
            (Op.QUEUE_PUBLISH, 2),
            (Op.PURGE, 1),
            (Op.QUEUE_PUBLISH, 1),
        ]


async def test_a_cancelled_publish_is_not_sent() -> None:
    """If it was not sent yet; those that it would have left with are, also if it was the first."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        calls = [asyncio.create_task(queue.publish("q", f"m{n}", b"x")) for n in range(4)]
        alone = asyncio.create_task(queue.publish("other", "alone", b"x"))
        await asyncio.sleep(0)
        queue._client.connection.link._lost()
        for call in (calls[0], calls[2], alone):
            call.cancel()
        late = asyncio.create_task(queue.publish("other", "late", b"x"))
        assert await asyncio.gather(calls[1], calls[3], late) == ["m1", "m3", "late"]
        assert [command[2:] for command in fake.commands(Op.QUEUE_PUBLISH)] == [
            ["q", [["m1", b"x"], ["m3", b"x"]]],
            ["other", [["late", b"x"]]],
        ]
        assert "waiting=0" in repr(queue._client.connection.requests)


async def test_a_cancelled_publish_is_not_repeated() -> None:
    """After the loss of a session only what somebody waits for is published again."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        calls = [asyncio.create_task(queue.publish("q", f"m{n}", b"x")) for n in range(3)]
        (sent,) = await fake.heard(Op.QUEUE_PUBLISH)
        assert [message[0] for message in sent[3]] == ["m0", "m1", "m2"]
        calls[1].cancel()
        await asyncio.wait([calls[1]])
        fake.answer(Op.QUEUE_PUBLISH, [None, "m2 before"])
        await fake.say([Reply.UNKNOWN], number=0)
        assert await asyncio.gather(calls[0], calls[2]) == ["m0", "m2 before"]
        assert [message[0] for message in fake.commands(Op.QUEUE_PUBLISH)[1][3]] == ["m0", "m2"]


async def test_a_publish_is_cancelled_while_the_session_is_lost() -> None:
    """In the very turn in which the others are published again it leaves like any other."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        calls = [asyncio.create_task(queue.publish("q", f"m{n}", b"x")) for n in range(2)]
        await fake.heard(Op.QUEUE_PUBLISH)
        fake.answer(Op.QUEUE_PUBLISH, None)
        calls[0].cancel()
        queue._client.connection._rebuild(b"session", b"secret", 2)
        assert [message[0] for message in queue._client.connection.session._commands[-1][3]] == [
            "m1"
        ]
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        await fake.say([Reply.UNKNOWN], number=0)
        assert await calls[1] == "m1"


@pytest.mark.parametrize(
    "answer", ["m0", [], [None], [None, None, None], [None, 5], [None, ["queue_full"]]]
)
async def test_an_answer_to_a_publish_that_makes_no_sense(answer: object) -> None:
    """It is OutcomeUnknown for each message, and costs the session."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, answer)
        calls = [queue.publish("q", f"m{n}", b"x") for n in range(2)]
        raised = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in raised] == [OutcomeUnknown, OutcomeUnknown]
        await eventually(lambda: len(fake.hellos) == 2)


async def test_many_publishes_fill_frames() -> None:
    """However many there are in one turn, a frame holds a bounded number of them."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        fake.answer(Op.QUEUE_PUBLISH, None)
        ids = [f"m{n}" for n in range(1300)]
        assert await asyncio.gather(*(queue.publish("q", id_, b"x") for id_ in ids)) == ids
        batches = [command[3] for command in fake.commands(Op.QUEUE_PUBLISH)]
        assert [message[0] for batch in batches for message in batch] == ids
        assert max(map(len, batches)) <= 512


async def test_changes_are_not_repeated() -> None:
    """A change whose answer was lost with the session is OutcomeUnknown, a question is repeated."""
    async with FakeBroker() as fake, opened(EventQueue, fake.url) as queue:
        purging = asyncio.create_task(queue.purge("q"))
        counting = asyncio.create_task(queue.stats("q"))
        await fake.heard(Op.QUEUE_STATS)
        fake.answer(Op.QUEUE_STATS, [1, 2, 3, 4])
        await fake.say([Reply.UNKNOWN], number=0)
        with pytest.raises(OutcomeUnknown):
            await purging
        assert (await counting).dead == 4
        assert len(fake.commands(Op.PURGE)) == 1


async def test_uncertain_messages_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Published messages that the old session took along are told in the log, not repeated."""
    async with FakeBroker() as fake, opened(PubSub, fake.url, Receiver()) as pub_sub:
        fake.beating = fake.confirming = False
        await pub_sub.publish("c", b"1")
        await fake.heard(Op.PUBLISH)
        with caplog.at_level(logging.WARNING, "corekit.zeromq"):
            await fake.say([Reply.UNKNOWN], number=0)
            await eventually(lambda: "1 published messages may not have arrived" in caplog.text)
        await pub_sub.publish("c", b"2")
        assert await fake.heard(Op.PUBLISH, 2) == [publish("c", b"1"), publish("c", b"2")]


# -- other things


async def test_descriptors_are_given_back() -> None:
    """Connecting a hundred times in vain, and again, leaves no descriptor open."""

    def descriptors() -> int:
        probe = socket.socket()
        number = probe.fileno()
        probe.close()
        return number

    async with FakeBroker() as fake, opened(Cache, fake.url) as cache:
        before = descriptors()
        for count in range(2, 7):
            await fake.say([Reply.UNKNOWN], number=0)
            await eventually(lambda count=count: len(fake.hellos) >= count)  # type: ignore[misc]
        await eventually(lambda: descriptors() <= before + 3)
        await eventually(lambda: " up " in repr(cache))


def test_bad_urls_are_refused() -> None:
    """What a URL says badly is a ConfigurationError when the adapter is built."""
    check: Callable[[str], Cache] = lambda url: Cache(BackendURL.parse(url), make_context())  # noqa: E731
    for url in (
        "zmq://0.0.0.0:7650",
        "zmq://*:7650",
        "zmq://[::]:7650",
        "zmq://",
        "zmq://a:1,b:2",
        "zmq://user:pw@host:1",
        "zmq://host:1/path",
        "zmq://host?unknown=1",
        "zmq://host?timeout=0",
        "zmq://host?durability=maybe",
        "zmq://host?server_key=x",
        "zmq+ipc://relative/path",
        "zmq+ipc:///" + "x" * 107,
        "zmq+local://a/b",
        "zmq+local://..",
        "zmq+local://shop?server_key=x&key_file=y",
    ):
        with pytest.raises(ConfigurationError):
            check(url)
    for url in (
        "zmq://host",
        "zmq://[::1]:7650",
        "zmq+ipc:///run/x",
        "zmq+local://",
        "zmq+local://é",
    ):
        check(url)
