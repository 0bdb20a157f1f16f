"""The wire protocol between clients and the broker, version 1.

One ZeroMQ message is one frame: a msgpack array `[number, received, commands]`. A frame carries all
commands that were ready in one turn of the sender's loop.

Numbers make a session out of connections. Each side counts its frames from 1; `received` is the
number of the last frame it got from the other side. A frame with number 0 is outside the count: it
carries HELLO or what answers it, or nothing (a heartbeat). The broker's `received`
may lag behind what arrived: it names a frame once what that changed is on disk.
Each side keeps what it sent until the
other has received it. After a lost connection the client says HELLO with its session and
`received`; the broker answers WELCOME with its own, and both send again what the other lacks. So
within one life of the broker every command arrives exactly once and in order, however often the
connection breaks; or the session is refused as a whole (WELCOME with `resumed` false), and the
client builds its state anew: subscriptions, consumers, claims, unanswered requests.

Whoever has got `ACKNOWLEDGE_FRAMES` frames or `ACKNOWLEDGE_BYTES` bytes since it last sent a frame
sends an empty one, so that the other side can forget what arrived. Each side sends at least one
frame each `heartbeat` seconds, an empty one with number 0 if there is nothing to say. A session of
which the broker hears nothing for `timeout` seconds ends; both times stand in WELCOME's info.

A command is an array whose first element says what it is. Requests carry a number chosen by the
client, `rid`, not used by another unanswered request, which OK or FAIL repeats. `consumer` is a
number chosen by the client, too. HELLO keeps its form in every version of the protocol. Session,
secret, token, owner, payload, batch and value are bytes, epoch and version of an entry whole
numbers, names and ids text. In the first HELLO of a client session and secret are empty. When its
session was refused, a client puts its consumers and claims into its first frame: the broker, after
its start, holds back deliveries for a moment until the sessions of its former life have sent it.

A malformed command costs its sender FAIL if it is a request, and the session (REFUSED) if not; so
does a frame that cannot be read. An operation that the broker does not know is answered FAIL if its
second element can be a rid, and ignored otherwise.

Client to broker::

    HELLO          magic, version, session, secret, received, info
    BYE
    SUBSCRIBE      rid, channel, epoch or nil, seq          -> OK seq
    UNSUBSCRIBE    channel
    PUBLISH        channel, count, batch
    QUEUE_PUBLISH  rid, channel, [message, ...]             -> OK [outcome, ...] or nil
    CONSUME        consumer, channel
    CANCEL         consumer
    CREDIT         consumer, credit
    REVOKE         consumer
    ACK            consumer, [token, ...]
    RELEASE        consumer, token, started
    RETRY          consumer, token, delay, error
    BURY           consumer, token, error
    CLAIM          rid, consumer, [token, ...]              -> OK [new token or nil, ...]
    QUEUE_STATS    rid, channel                             -> OK [ready, delayed, in_flight, dead]
    DEAD_LETTERS   rid, channel, limit         -> OK [[id, payload, error, attempts, died_at], ...]
    REQUEUE        rid, channel, id                         -> OK nil
    PURGE          rid, channel                             -> OK count
    CACHE_GET      rid, space, [key, ...]                   -> OK [[value, version] or nil, ...]
    CACHE_SET      rid, space, evict, {key: value}, lifetime or nil   -> OK nil
    CACHE_SWAP     rid, space, evict, key, value, version or nil, lifetime or nil -> OK bool
    CACHE_DELETE   rid, space, [key, ...]                   -> OK [value or nil, ...]
    CACHE_KEYS     rid, space                               -> OK [key, ...]
    CACHE_CLEAR    rid, space                               -> OK nil
    CACHE_FLUSH    rid, prefix of spaces                    -> OK nil
    LOCK_ACQUIRE   rid, name, ttl, wait or nil              -> OK [token, ttl, owner] or nil
    LOCK_ABANDON   rid of a LOCK_ACQUIRE that is to wait no longer; what it got is released
    LOCK_EXTEND    rid, name, owner, ttl                    -> OK granted ttl or nil (lost)
    LOCK_RELEASE   rid, name, owner                         -> OK nil
    STATUS         rid                                      -> OK map

Broker to client::

    WELCOME        version, session, secret, epoch, resumed, received, info
    UNKNOWN        this connection has no session: say HELLO (again)
    REFUSED        code, text: HELLO was refused, or the session was ended for what it sent
    OK             rid, value
    FAIL           rid, code, text
    MESSAGES       channel, seq of the first, [[count, batch], ...]
    GAP            channel, seq of the next message
    DELIVERIES     consumer, [[token, id, payload, attempt, deaths, published_at], ...]
    EXPIRED        consumer, [token, ...]

A `message` is [id, payload] or [id, payload, delay, dedup_id or nil]. Its `outcome` is nil if it
was queued, the id of an earlier message if its dedup_id was known, or [code, text] if it was
refused, which concerns no other; nil instead of the list means that all were queued.

A batch is a msgpack array of `count` payloads, one at least. The broker numbers its messages, keeps
it and sends it on as it is: only subscribers look into it. One that is not what its publisher said
costs them a gap in place of its messages. A batch may be larger than the largest payload by
`BATCH_ALLOWANCE`.

SUBSCRIBE's `seq` is that of the next message which the subscriber lacks, OK's that of the next
message which it will get. If the epoch is this one and the history reaches back to `seq`, what it
lacks follows, from the beginning of a batch on: older messages than `seq` in it have to be dropped.
Otherwise GAP follows, unless epoch was nil. LOCK_ABANDON is not answered, and neither
is the request that it names; LOCK_ACQUIRE is answered nil when its wait is over. CANCEL and BYE
give back what the consumer holds, uncounted. What is held when a session ends otherwise counts a
death each, and locks of the session are freed.

HELLO's info may hold `name` and `version` (texts, shown by STATUS), and `process`, a map of the
client's `pid`, `started`, `boot` and `namespace` as `ProcessIdentity` has them: a broker that can
watch this process ends the session when it dies. WELCOME's holds `version` (of the software),
`durability` ("full" or "relaxed"), `heartbeat`, `timeout` (seconds) and `max_message` (bytes).

`epoch` is a life of the broker; sequence numbers of channels and tokens of deliveries belong to it,
except that tokens can be claimed in the next one. Durations are seconds, times Unix seconds, codes
those of `corekit.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgpack

from corekit.errors import SerializationError

MAGIC = "corekit"
VERSION = 1

#: So many frames or bytes come in before an empty frame must acknowledge them.
ACKNOWLEDGE_FRAMES = 64
ACKNOWLEDGE_BYTES = 256 * 1024

#: What a frame may be larger than the largest payload in it: commands around it, other payloads.
FRAME_ALLOWANCE = 1024 * 1024

#: What a batch may be larger than the largest payload: the rest of its frame fits beside it.
BATCH_ALLOWANCE = FRAME_ALLOWANCE // 2

#: The values in a batch of so many bytes need not be counted before it is read.
_SMALL = 256 * 1024

#: Packers to be used again: each has a megabyte of memory, which is costly to get for each frame.
_idle: list[msgpack.Packer] = []


class Op(IntEnum):
    """What a client asks of the broker."""

    HELLO = 0
    BYE = 1
    SUBSCRIBE = 10
    UNSUBSCRIBE = 11
    PUBLISH = 12
    QUEUE_PUBLISH = 20
    CONSUME = 21
    CANCEL = 22
    CREDIT = 23
    REVOKE = 24
    ACK = 25
    RELEASE = 26
    RETRY = 27
    BURY = 28
    CLAIM = 29
    QUEUE_STATS = 30
    DEAD_LETTERS = 31
    REQUEUE = 32
    PURGE = 33
    CACHE_GET = 40
    CACHE_SET = 41
    CACHE_SWAP = 42
    CACHE_DELETE = 43
    CACHE_KEYS = 44
    CACHE_CLEAR = 45
    CACHE_FLUSH = 46
    LOCK_ACQUIRE = 50
    LOCK_ABANDON = 51
    LOCK_EXTEND = 52
    LOCK_RELEASE = 53
    STATUS = 60


class Reply(IntEnum):
    """What the broker tells a client."""

    WELCOME = 0
    UNKNOWN = 1
    REFUSED = 2
    OK = 3
    FAIL = 4
    MESSAGES = 10
    GAP = 11
    DELIVERIES = 20
    EXPIRED = 21


#: What a lone message is sent as, by names of their own: to look a member up in its Enum takes as
#: long as a call.
PUBLISH = Op.PUBLISH
MESSAGES = Reply.MESSAGES


def packed(value: Any) -> bytes:
    """Return *value* as bytes: one payload or more are a batch, what `encode` packs is a frame."""
    # A packer at work belongs to its thread, one that failed to nobody, and a large one keeps its
    # size.
    try:
        packer = _idle.pop()
    except IndexError:
        packer = msgpack.Packer()
    data: bytes = packer.pack(value)
    if len(data) <= _SMALL:
        _idle.append(packer)
    return data


def encode(number: int, received: int, commands: Sequence[Sequence[Any]]) -> bytes:
    """Return the frame *number* with *commands*; *received* is the last frame that came in."""
    return packed((number, received, commands))


def decode(frame: bytes, *, elements: int | None = None) -> tuple[int, int, list[list[Any]]]:
    """Return number, received and commands of a frame.

    Checks the form of the frame, not of the commands. Its cost is bounded by the frame's size; as
    a value of one byte can take eighty in memory, a frame from whom nobody vouches for has a limit
    of values, too: *elements*. Raises SerializationError for anything that is not a frame.
    """
    try:
        if elements is not None and len(frame) > elements:
            _count(frame, elements)
        number, received, commands = msgpack.unpackb(
            frame,
            use_list=True,
            # Limits against the frame's own length: no header can claim more than was sent.
            max_array_len=len(frame),
            max_map_len=len(frame),
            max_ext_len=0,
            strict_map_key=True,
        )
    except Exception as error:
        raise SerializationError(f"not a frame: {type(error).__name__}") from error
    if (
        type(number) is not int
        or type(received) is not int
        or number < 0
        or received < 0
        or type(commands) is not list
    ):
        raise SerializationError("not a frame of corekit's protocol")
    for command in commands:
        if type(command) is not list or not command:
            raise SerializationError("a command of a frame is none")
    return number, received, commands


def decode_batch(count: int, batch: bytes) -> list[bytes]:
    """Return the *count* payloads of *batch*; raises SerializationError if it holds anything else.

    Nobody has vouched for a batch. As with frames, a large one has a limit of values: one more than
    it has payloads.
    """
    try:
        if len(batch) > _SMALL:
            _count(batch, count + 1)
        payloads: list[bytes] = msgpack.unpackb(
            batch, max_array_len=count, max_map_len=0, max_str_len=0, max_ext_len=0
        )
    except Exception as error:
        raise SerializationError(f"not a batch: {type(error).__name__}") from error
    # One that is alone, as at rest, is looked at by itself: a set takes longer than all the rest.
    if (
        type(payloads) is list
        and len(payloads) == count
        and (type(payloads[0]) is bytes if count == 1 else {*map(type, payloads)} == {bytes})
    ):
        return payloads
    raise SerializationError(f"not a batch of {count} payloads")


def _count(frame: bytes, most: int) -> None:
    """Raise ValueError if *frame* holds, or claims to hold, more than *most* values."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(frame))
    unpacker.feed(frame)
    seen, left = 0, 1
    while left:
        head = frame[unpacker.tell()]
        if head & 0xF0 == 0x90 or head in {0xDC, 0xDD}:
            left += unpacker.read_array_header()
        elif head & 0xF0 == 0x80 or head in {0xDE, 0xDF}:
            left += 2 * unpacker.read_map_header()
        else:
            unpacker.skip()
        seen, left = seen + 1, left - 1
        if seen + left > most:
            raise ValueError(f"more than {most} values")
