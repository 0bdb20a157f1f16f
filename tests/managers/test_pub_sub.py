"""Publishing and subscribing: who gets what, and when."""

from __future__ import annotations

import asyncio
import enum
from functools import partial

import pytest

from corekit.errors import (
    InvalidArgument,
    InvalidName,
    InvalidType,
    NotOpenError,
    SerializationError,
    WrongLoop,
)
from corekit.testing import eventually


async def test_other_instances_get_a_message(cluster):
    """What one instance publishes arrives in another one, as it was."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log)
        message = {"id": 5, "tags": ("x", None), "falsy": [0, "", False]}
        await a.publish("c", message)
        await eventually(lambda: log.messages)
        assert log.messages == [message]


@pytest.mark.parametrize("message", [None, 0, "", False, [], {}])
async def test_falsy_messages_are_messages(cluster, message):
    """A falsy message is delivered like any other."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log)
        await a.publish("c", message)
        await eventually(lambda: log.messages)
        assert log.messages == [message]
        assert type(log.messages[0]) is type(message)


@pytest.mark.parametrize(
    ("options", "own", "others"),
    [
        ({}, 0, 1),
        ({"skip_self": True}, 0, 1),
        ({"skip_self": False}, 1, 1),
        ({"only_self": True}, 1, 0),
        ({"only_self": True, "skip_self": False}, 1, 0),
        ({"only_self": True, "skip_self": True}, 1, 0),
    ],
)
async def test_audience(cluster, options, own, others):
    """Self is the App instance, not the process; only_self wins over skip_self."""
    async with cluster.running("a", "b") as (a, b):
        mine, theirs, marks = cluster.Log(), cluster.Log(), cluster.Log()
        await a.subscribe("c", mine)
        await b.subscribe("c", theirs)
        await a.subscribe("c", marks)
        await a.publish("c", "m", **options)
        await a.publish("c", "end", skip_self=False)
        await eventually(lambda: "end" in mine.messages and "end" in theirs.messages)
        assert mine.messages.count("m") == own
        assert theirs.messages.count("m") == others


async def test_only_self_does_not_look_like_a_gap_to_others(cluster):
    """Messages that are not for a subscriber leave no hole in what it counts."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log, on_gap=log.gap)
        for n in range(5):
            await a.publish("c", n, only_self=bool(n % 2))
        await eventually(lambda: len(log.messages) == 3)
        assert log.messages == [0, 2, 4]


async def test_message_is_written_in_the_call(cluster):
    """Changing a message after publish has begun changes nothing."""
    async with cluster.wired() as (manager, wire):
        wire.hangs = {"publish"}
        log, message = cluster.Log(), {"n": [1]}
        await manager.subscribe("c", log)
        publishing = asyncio.create_task(manager.publish("c", message, skip_self=False))
        await eventually(lambda: wire.reached["publish"])
        message["n"].append(2)
        wire.let_go()
        await publishing
        ((channel, payload),) = wire.published
        wire.receiver.messages(channel, [payload])
        await eventually(lambda: log.messages)
        assert log.messages == [{"n": [1]}]


async def test_unserialisable_message_uses_no_number(cluster):
    """A message that cannot be written fails in its call alone, and leaves no gap."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log, on_gap=log.gap)
        await a.publish("c", 1)
        with pytest.raises(SerializationError, match="message"):
            await a.publish("c", {"callback": object()})
        await a.publish("c", 2)
        await eventually(lambda: 2 in log.messages)
        assert log.messages == [1, 2]


async def test_channels_are_matched_exactly(cluster):
    """No character of a channel's name is special, and applications never meet."""
    async with cluster.running("a", "b") as (a, b):
        names = ["*", "a.*", "a", "a.b", "a/b", "a%2Fb", ">", "A", " a", "é"]
        logs = {name: cluster.Log() for name in names}
        for name, log in logs.items():
            await b.subscribe(name, log)
        foreign = cluster.manager("a", app="shop2")
        await foreign.open(cluster.adapter())
        for name in names:
            await a.publish(name, name)
            await foreign.publish(name, "foreign")
        await foreign.close()
        await eventually(lambda: all(log.messages for log in logs.values()))
        assert {name: log.messages for name, log in logs.items()} == {n: [n] for n in names}


async def test_a_str_enum_names_the_same_channel(cluster):
    """A str subclass is a name by its value."""

    class Topic(enum.StrEnum):
        ORDERS = "orders"

    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe(Topic.ORDERS, log)
        await a.publish("orders", 1)
        await a.publish(Topic.ORDERS, 2)
        await eventually(lambda: len(log.messages) == 2)


async def test_several_handlers_do_not_share_a_message(cluster):
    """Each handler of a channel gets every message, and may change it."""
    async with cluster.running("a", "b") as (a, b):
        seen = []

        async def taking(message):
            seen.append(message.pop("action"))

        async def taking_too(message):
            seen.append(message.pop("action"))

        await b.subscribe("c", taking)
        await b.subscribe("c", taking_too)
        await a.publish("c", {"action": "go"})
        await eventually(lambda: len(seen) == 2)
        assert seen == ["go", "go"]


async def test_order_is_kept(cluster):
    """Messages of one publisher arrive in the order of its calls, overlapping ones included."""
    async with cluster.running("a", "b") as (a, b):
        log = cluster.Log()
        await b.subscribe("c", log, on_gap=log.gap)
        await asyncio.gather(*(a.publish("c", n) for n in range(3000)))
        for n in range(3000, 6000):
            await a.publish("c", n)
        await eventually(lambda: len(log.messages) == 6000)
        assert log.messages == list(range(6000))


async def test_subscribing_before_open_is_remembered(cluster):
    """A subscription made before the start works after it."""
    b, log = cluster.manager("b"), cluster.Log()
    await b.subscribe("c", log)
    await b.open(cluster.adapter())
    async with cluster.running("a") as (a,):
        await a.publish("c", 1)
        await eventually(lambda: log.messages == [1])
    await b.close()


async def test_publishing_before_open_and_after_close_is_refused(cluster):
    """Publish needs a started App, also in a transaction."""
    manager = cluster.manager()
    with pytest.raises(NotOpenError, match="not started"):
        await manager.publish("c", 1)
    with pytest.raises(NotOpenError):
        await manager.publish("c", 1, transaction=cluster.Transaction())
    await manager.open(cluster.adapter())
    await manager.close()
    with pytest.raises(NotOpenError, match="stopped"):
        await manager.publish("c", 1)


async def test_subscriptions_are_kept_across_restarts_each_once(cluster):
    """After a restart every subscription works, once, also if it is made again."""
    b, log, other = cluster.manager("b"), cluster.Log(), cluster.Log()
    await b.subscribe("c", log, on_gap=log.gap)
    async with cluster.running("a") as (a,):
        for n in range(3):
            await b.open(cluster.adapter())
            await b.subscribe("c", log, on_gap=log.gap)
            await b.subscribe("c", other)
            await a.publish("c", n)
            await eventually(lambda n=n: n in other.messages)
            await b.close()
            await a.publish("c", "missed")
    assert log.messages == other.messages == [0, 1, 2]


def test_restart_in_another_loop(cluster):
    """A manager that was closed may be opened in another loop; its subscriptions work there."""
    a, b, log = cluster.manager("a"), cluster.manager("b"), cluster.Log()

    async def once(n):
        await a.open(cluster.adapter())
        await b.open(cluster.adapter())
        await b.subscribe("c", log)
        await a.publish("c", n)
        await eventually(lambda: n in log.messages)
        await a.close()
        await b.close()

    for n in range(2):
        cluster.clock.run(once(n))
    assert log.messages == [0, 1]


async def test_a_restarted_instance_is_a_new_publisher(cluster):
    """Numbers that begin again after a restart are neither dropped nor told as a gap."""
    async with cluster.running("b") as (b,):
        log = cluster.Log()
        await b.subscribe("c", log, on_gap=log.gap)
        a = cluster.manager("a")
        for run in range(3):
            await a.open(cluster.adapter())
            for n in range(3):
                await a.publish("c", (run, n))
            await a.close()
        await eventually(lambda: len(log.messages) == 9)
        assert log.messages == [(run, n) for run in range(3) for n in range(3)]


async def test_another_loop_is_refused(cluster):
    """Every call from another loop than that of the start raises WrongLoop."""
    async with cluster.running("a") as (a,):
        log = cluster.Log()
        await a.subscribe("c", log)

        async def elsewhere():
            with pytest.raises(WrongLoop):
                await a.publish("c", 1)
            with pytest.raises(WrongLoop):
                await a.subscribe("c", log)
            with pytest.raises(WrongLoop):
                await a.unsubscribe("c", log)

        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_unsubscribe(cluster):
    """An unsubscribed handler gets nothing more, others do; unknown ones are ignored."""
    async with cluster.running("a", "b") as (a, b):
        gone, there = cluster.Log(), cluster.Log()
        await b.subscribe("c", gone)
        await b.subscribe("c", there)
        await b.unsubscribe("c", gone)
        await b.unsubscribe("c", gone)
        await b.unsubscribe("unknown", gone)
        await a.publish("c", 1)
        await eventually(lambda: there.messages)
        assert gone.messages == []


async def test_last_unsubscribe_leaves_the_backend(cluster):
    """The backend sends a channel exactly while somebody listens."""
    async with cluster.wired() as (manager, wire):
        one, two = cluster.Log(), cluster.Log()
        await manager.subscribe("c", one)
        await manager.subscribe("c", two)
        assert wire.calls.count("subscribe") == 1
        await manager.unsubscribe("c", one)
        assert wire.subscribed == {"shop/channel/c"}
        await manager.unsubscribe("c", two)
        assert wire.subscribed == set()


async def test_bound_methods_are_compared_by_value(cluster):
    """obj.method is another object each time, and the same handler."""

    class Listener:
        def __init__(self):
            self.heard = []

        async def hear(self, message):
            self.heard.append(message)

    async with cluster.running("a", "b") as (a, b):
        listener = Listener()
        await b.subscribe("c", listener.hear)
        await b.subscribe("c", listener.hear)
        await a.publish("c", 1)
        await eventually(lambda: listener.heard)
        await b.unsubscribe("c", listener.hear)
        await a.publish("c", 2)
        await asyncio.sleep(1)
        assert listener.heard == [1]


@pytest.mark.parametrize(
    ("channel", "error"),
    [("", InvalidName), ("a\x00b", InvalidName), ("x" * 513, InvalidName), ("\ud800", InvalidName),
     (None, InvalidType), (5, InvalidType), (b"c", InvalidType), (["c"], InvalidType)],
)  # fmt: skip
async def test_bad_channels(cluster, channel, error):
    """A bad name is refused by every call, started or not, and nothing is left of it."""
    for manager in (cluster.manager(), (await _opened(cluster))):
        with pytest.raises(error, match="channel"):
            await manager.publish(channel, 1)
        with pytest.raises(error, match="channel"):
            await manager.subscribe(channel, cluster.Log())
        with pytest.raises(error, match="channel"):
            await manager.unsubscribe(channel, cluster.Log())
        assert "channels=0" in repr(manager.channels)
        await manager.close()


async def _opened(cluster):
    manager = cluster.manager()
    await manager.open(cluster.adapter())
    return manager


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"debounce": -1}, InvalidArgument),
        ({"debounce": float("nan")}, InvalidArgument),
        ({"debounce": True}, InvalidType),
        ({"debounce": "1"}, InvalidType),
        ({"debounce": None}, InvalidType),
        ({"debounce": 2, "max_wait": 1}, InvalidArgument),
        ({"debounce": 1, "max_wait": 0}, InvalidArgument),
        ({"max_wait": 0}, InvalidArgument),
        ({"max_wait": float("inf")}, InvalidArgument),
        ({"buffer": 0}, InvalidArgument),
        ({"buffer": 1.5}, InvalidType),
        ({"buffer": True}, InvalidType),
        ({"on_gap": "resync"}, InvalidType),
    ],
)
async def test_bad_options(cluster, options, error):
    """A bad option is refused by name, and nothing was subscribed."""
    async with cluster.wired() as (manager, wire):
        with pytest.raises(error, match=next(iter(options)) if len(options) == 1 else "max_wait"):
            await manager.subscribe("c", cluster.Log(), **options)
        assert wire.subscribed == set()


@pytest.mark.parametrize(
    "handler", [print, lambda message: None, partial(print, 1), None, "f", dict]
)
async def test_a_plain_function_is_no_handler(cluster, handler):
    """A handler must be async."""
    with pytest.raises(InvalidType, match="handler must be an async function"):
        await cluster.manager().subscribe("c", handler)


async def test_async_callables_are_handlers(cluster):
    """A partial of an async function, and an object with an async __call__, are handlers."""
    async with cluster.running("a", "b") as (a, b):
        log, seen = cluster.Log(), []

        async def with_prefix(prefix, message):
            seen.append((prefix, message))

        await b.subscribe("c", partial(with_prefix, "p"))
        await b.subscribe("c", log)
        await a.publish("c", 1)
        await eventually(lambda: log.messages and seen)
        assert seen == [("p", 1)]


@pytest.mark.parametrize("options", [{"skip_self": 1}, {"only_self": None}, {"only_self": "yes"},
                                     {"only_self": True, "skip_self": 0}])  # fmt: skip
async def test_bad_flags(cluster, options):
    """skip_self and only_self are True or False."""
    async with cluster.running("a") as (a,):
        with pytest.raises(InvalidType, match="_self must be True or False"):
            await a.publish("c", 1, **options)


async def test_unused_names_are_forgotten(cluster, monkeypatch):
    """Publishing to ever new channels costs bounded memory; the numbers start anew unnoticed."""
    monkeypatch.setattr("corekit.managers.channels._MANY", 10)
    async with cluster.running("b") as (b,):
        a, log = cluster.manager("a"), cluster.Log()
        a.channels._many = 10
        await a.open(cluster.adapter())
        await b.subscribe("0", log, on_gap=log.gap)
        await a.subscribe("listened", log)
        for n in range(100):
            await a.publish(str(n % 25), n)
        assert len(a.channels._by_full_name) <= 11
        assert "listened" in a._known
        await eventually(lambda: len(log.messages) == 4)
        assert log.messages == [0, 25, 50, 75]
        await a.close()


async def test_states_show(cluster):
    """Every object shows its state."""
    async with cluster.running("a") as (a,):
        assert repr(a) == "<PubSubManager 'shop' open>"
        await a.subscribe("c", cluster.Log(), debounce=1)
        await a.publish("c", 1, skip_self=False)
        channel = a._known["c"]
        assert repr(channel) == "<Channel 'shop/channel/c' received published=1 subscriptions=1>"
        await asyncio.sleep(0.1)
        assert repr(channel.subscriptions[0]) == (
            "<Subscription 'shop/channel/c' Log idle buffered=0 held=1>"
        )
        assert repr(channel.heard) == "<SequenceTracker publishers=1>"
    assert repr(a) == "<PubSubManager 'shop' closed>"
