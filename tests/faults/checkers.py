"""Judges of histories: each reads the events of a run, and says what must not have happened.

The operations they know, with their facts:

- publish (call, ok, fail, unknown): key, channel, number; keys are unique, numbers grow
- handle (call, ok, fail): key, channel, number, publisher, id, attempt
- send (call, ok, fail, unknown), receive (ok), gap (ok), subscribe (ok): pub/sub, likewise
- acquire (call, ok), leave (ok: before the release), work (ok, lost, fail: after it): name, token
- use (ok, fail): name, token, holder, as the guarded resource saw it
- fault (call, ok): kind, target; from its beginning to its end
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .history import Event

#: How long after its handler an acknowledgement may be on its way, in seconds.
ACK_WINDOW = 1.0
#: How long a message may lie in a consumer before its handler begins, in seconds.
PREFETCH_WINDOW = 3.0


@dataclass
class Finding:
    """What a checker counted, and what it holds against the run."""

    figures: dict[str, float] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def report(*findings: Finding) -> str:
    """Return all figures in one line."""
    figures = [pair for finding in findings for pair in finding.figures.items()]
    return " ".join(f"{name} {round(value, 2):g}" for name, value in figures)


def select(events: Iterable[Event], op: str, phase: str | None = None) -> list[Event]:
    """Return the events of one operation, of one phase if it is given."""
    return [event for event in events if event.op == op and phase in (None, event.phase)]


def keys(events: Iterable[Event], op: str, phase: str) -> set[str]:
    """Return the keys of the events of one operation and phase."""
    return {event["key"] for event in select(events, op, phase)}


def _some(values: Iterable[str]) -> str:
    found = sorted(values)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def faults(events: list[Event]) -> Finding:
    """At least one fault hit work: something was done in the second before it began."""
    done = [event.time for event in events if event.op != "fault" and event.phase == "ok"]
    begun = [event.time for event in select(events, "fault", "call")]
    hits = sum(any(begin - 1 < time < begin for time in done) for begin in begun)
    finding = Finding({"faults": len(begun), "hits": hits})
    if not hits:
        finding.violations.append("no fault took effect: the run proves nothing")
    return finding


def no_loss(events: list[Event], dead: Iterable[str] = ()) -> Finding:
    """Every confirmed message was handled to its end or is a dead letter; no other one appears."""
    attempted, acknowledged = keys(events, "publish", "call"), keys(events, "publish", "ok")
    unknown = keys(events, "publish", "unknown")
    unanswered = attempted - keys(events, "publish", "fail") - acknowledged - unknown
    begun, handled = keys(events, "handle", "call"), keys(events, "handle", "ok")
    lost = acknowledged - handled - set(dead)
    unexpected = (begun | set(dead)) - acknowledged - unknown - unanswered
    recovered = (handled | set(dead)) & (unknown | unanswered)
    finding = Finding(
        {
            "attempted": len(attempted),
            "acknowledged": len(acknowledged),
            "handled": len(handled),
            "lost": len(lost),
            "recovered": len(recovered),
            "unexpected": len(unexpected),
        }
    )
    if not acknowledged:
        finding.violations.append("nothing was acknowledged: the run proves nothing")
    if lost:
        finding.violations.append(f"confirmed and lost: {_some(lost)}")
    if unexpected:
        finding.violations.append(f"handled, but never accepted: {_some(unexpected)}")
    return finding


def duplicates(events: list[Event], in_flight: int) -> Finding:
    """Each fault has at most *in_flight* messages handled once more."""
    count = Counter(event["key"] for event in select(events, "handle", "call"))
    doubled = sum(count.values()) - len(count)
    number = len(select(events, "fault", "call"))
    finding = Finding({"duplicated": doubled, "duplicated_per_fault": doubled / max(number, 1)})
    if doubled > number * in_flight:
        text = f"{doubled} deliveries too many, {number} faults explain {number * in_flight}"
        finding.violations.append(text)
    return finding


def _intervals(events: list[Event]) -> list[tuple[float, float]]:
    """Return beginning and end of each fault."""
    open_, found = {}, []
    for event in select(events, "fault"):
        if event.phase == "call":
            open_[event.process, event["target"]] = event.time
        else:
            found.append((open_.pop((event.process, event["target"])), event.time))
    return found + [(begin, float("inf")) for begin in open_.values()]


def _united(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return *intervals* with those in one that overlap."""
    united: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if united and begin <= united[-1][1]:
            united[-1] = united[-1][0], max(end, united[-1][1])
        else:
            united.append((begin, end))
    return united


def no_zombie(events: list[Event]) -> Finding:
    """No message that was handled comes back, unless a fault fell on its acknowledgement."""
    intervals = _intervals(events)
    begun: dict[tuple[str, str], float] = {}
    ended: dict[str, tuple[float, float]] = {}
    resurrected = []
    for event in select(events, "handle"):
        key = event["key"]
        if event.phase == "call":
            begun[event.process, key] = event.time
            if key in ended:
                begin, end = ended[key]
                first, last = begin - PREFETCH_WINDOW, end + ACK_WINDOW
                if not any(down <= last and up >= first for down, up in intervals):
                    resurrected.append(key)
        elif event.phase == "ok":
            ended[key] = begun[event.process, key], event.time
    finding = Finding({"resurrected": len(resurrected)})
    if resurrected:
        finding.violations.append(f"came back after their end: {_some(resurrected)}")
    return finding


def order(events: list[Event], channel: str) -> Finding:
    """On *channel* each publisher's messages begin in the order of their numbers."""
    last: dict[tuple[str, str], int] = defaultdict(int)
    seen: set[str] = set()
    inversions = []
    for event in select(events, "handle", "call"):
        if event["channel"] != channel or event["key"] in seen:
            continue
        seen.add(event["key"])
        line = event["publisher"], event.process
        if event["number"] < last[line]:
            inversions.append(f"{event['key']} after number {last[line]}")
        last[line] = max(last[line], event["number"])
    finding = Finding({"inversions": len(inversions)})
    if not seen:
        finding.violations.append(f"nothing was handled on {channel}")
    if inversions:
        finding.violations.append(f"out of order: {_some(inversions)}")
    return finding


def attempts(events: list[Event], max_retries: int) -> Finding:
    """Each message keeps its id, and its attempts count from 1, by one, to *max_retries* + 1."""
    ids: dict[str, str] = {}
    highest: Counter[str] = Counter()
    finding = Finding()
    for event in select(events, "handle", "call"):
        key, attempt = event["key"], event["attempt"]
        if ids.setdefault(key, event["id"]) != event["id"]:
            finding.violations.append(f"{key} came back with another id")
        if not 1 <= attempt <= highest[key] + 1 or attempt > max_retries + 1:
            finding.violations.append(f"attempt {attempt} of {key} after {highest[key]}")
        highest[key] = max(highest[key], attempt)
    finding.figures["most_attempts"] = max(highest.values(), default=0)
    return finding


def gaps(events: list[Event]) -> Finding:
    """Each subscriber got every message that was sent after it had subscribed, or was told."""
    received = select(events, "receive")
    told = select(events, "gap")
    subscribed = select(events, "subscribe", "ok")
    sent = select(events, "send", "ok")
    silent = [text for event in subscribed for text in _silent_gaps(events, event)]
    finding = Finding(
        {
            "sent": len(sent),
            "subscribers": len(subscribed),
            "received": len(received),
            "gaps_told": len(told),
            "silent_gaps": len(silent),
        }
    )
    if not sent or not subscribed:
        finding.violations.append("nothing was sent, or to nobody: the run proves nothing")
    if silent:
        finding.violations.append(f"missed without a word: {_some(silent)}")
    return finding


def _silent_gaps(events: list[Event], subscribed: Event) -> Iterator[str]:
    """Yield what the subscriber of *subscribed* missed, saw twice, or saw in the wrong order."""
    name, channel = subscribed.process, subscribed["channel"]
    calls = [event for event in select(events, "send", "call") if event["channel"] == channel]
    confirmed = keys(events, "send", "ok")
    expected: dict[str, list[int]] = defaultdict(list)
    for event in calls:
        if event.time > subscribed.time and event["key"] in confirmed:
            expected[event.process].append(event["number"])
    last: Counter[str] = Counter()
    excused: dict[str, bool] = defaultdict(bool)
    for event in events:
        if event.process != name or event.op not in ("receive", "gap"):
            continue
        if event["channel"] != channel:
            continue
        if event.op == "gap":
            excused = defaultdict(lambda: True)
            continue
        sender, number = event["publisher"], event["number"]
        if number <= last[sender]:
            yield f"{name} got {event['key']} after {last[sender]}"
        missed = _between(expected[sender], last[sender], number)
        if missed and not excused[sender]:
            yield f"{name} lacks {sender}-{missed[0]} to {missed[-1]} ({len(missed)})"
        excused[sender] = False
        last[sender] = max(last[sender], number)
    for sender, numbers in expected.items():
        missed = numbers[bisect_right(numbers, last[sender]) :]
        if missed and not excused[sender]:
            yield f"{name} lacks {sender}-{missed[0]} to its end ({len(missed)})"


def _between(numbers: list[int], low: int, high: int) -> list[int]:
    """Return those of the growing *numbers* that lie between two others."""
    return numbers[bisect_right(numbers, low) : bisect_left(numbers, high)]


def fencing(events: list[Event], *, pauses: bool) -> Finding:
    """No old token is taken by the resource; tokens grow with each acquisition.

    With *pauses*, somebody must have come with an old token.
    """
    highest: Counter[str] = Counter()
    stale, accepted, finding = 0, 0, Finding()
    for event in select(events, "use"):
        if event["token"] < highest[event["name"]]:
            stale += 1
            if event.phase == "ok":
                accepted += 1
                text = f"token {event['token']} taken after {highest[event['name']]}"
                finding.violations.append(f"{event['name']}: {text}")
        elif event.phase == "ok":
            highest[event["name"]] = event["token"]
    owners: dict[tuple[str, int], str] = {}
    for event in select(events, "acquire", "ok"):
        if owners.setdefault((event["name"], event["token"]), event.process) != event.process:
            finding.violations.append(f"two holders of {event['name']} by token {event['token']}")
    finding.figures = {
        "acquired": len(select(events, "acquire", "ok")),
        "uses": len(select(events, "use")),
        "stale_attempts": stale,
        "stale_accepted": accepted,
    }
    if not owners or not highest:
        finding.violations.append("nobody used the resource: the run proves nothing")
    if pauses and not stale:
        finding.violations.append("nobody came with an old token: the run proves nothing")
    finding.violations += _tokens_that_fall(events)
    return finding


def _tokens_that_fall(events: list[Event]) -> Iterator[str]:
    """Yield acquisitions with a token that is not above those acquired before they were asked."""
    asked: dict[tuple[str, str], int] = {}
    highest: Counter[str] = Counter()
    for event in select(events, "acquire"):
        name = event["name"]
        if event.phase == "call":
            asked[event.process, name] = highest[name]
        elif event.phase == "ok":
            if event["token"] <= asked.get((event.process, name), 0):
                yield f"{name}: token {event['token']} is not above an earlier one"
            highest[name] = max(highest[name], event["token"])


def exclusion(events: list[Event]) -> Finding:
    """No two processes work under one key at once; for runs in which nobody is paused."""
    holder: dict[str, tuple[str, int]] = {}
    found = []
    for event in events:
        if event.op == "acquire" and event.phase == "ok":
            if event["name"] in holder:
                found.append(f"{event.process} beside {holder[event['name']][0]}")
            holder[event["name"]] = event.process, event["token"]
        elif event.op in ("leave", "work"):
            if holder.get(event["name"]) == (event.process, event["token"]):
                del holder[event["name"]]
        elif event.op == "fault" and event.phase == "call":
            # The work of a process that was killed ended there.
            ended = [name for name, one in holder.items() if one[0] == event["target"]]
            for name in ended:
                del holder[name]
    finding = Finding({"overlaps": len(found)})
    if found:
        finding.violations.append(f"two at work: {_some(found)}")
    return finding


def lost_leases(events: list[Event]) -> Finding:
    """Who was paused at work beyond its lease ended that work as lost, when it woke up."""
    paused = [event for event in select(events, "fault", "call") if event["kind"] == "pause"]
    at_work, undisturbed = 0, []
    for pause in paused:
        mine = [event for event in events if event.process == pause["target"]]
        before = [event for event in mine if event.time < pause.time]
        if not before or before[-1].op != "acquire" or before[-1].phase != "ok":
            continue
        at_work += 1
        after = (event for event in mine if event.time > pause.time and event.op == "work")
        end = next(after, None)
        if end is None or end.phase != "lost":
            undisturbed.append(f"{pause['target']} with token {before[-1]['token']}")
    finding = Finding({"paused_at_work": at_work, "not_told": len(undisturbed)})
    if not at_work:
        finding.violations.append("nobody was paused at work: the run proves nothing")
    if undisturbed:
        finding.violations.append(f"not told of the lost lease: {_some(undisturbed)}")
    return finding


def resumption(events: list[Event], within: float) -> Finding:
    """Each process that was at work before a fault succeeds again *within* seconds of its end."""
    intervals = _united(_intervals(events))
    successes: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.phase == "ok" and event.op != "fault":
            successes[event.process].append(event.time)
    worst: dict[str, float] = {}
    late = []
    for begin, end in intervals:
        next_fault = min((down for down, _ in intervals if down > begin), default=float("inf"))
        for process, times in successes.items():
            if bisect_left(times, begin) == bisect_left(times, begin - 2):
                continue
            after = bisect_right(times, end)
            took = times[after] - end if after < len(times) else float("inf")
            if end + took < next_fault:
                kind = process.rstrip("0123456789")
                worst[kind] = max(worst.get(kind, 0), took)
            if took > within and next_fault > end + within:
                late.append(f"{process} {took:.1f} s")
    finding = Finding({f"resumed_{kind}": took for kind, took in sorted(worst.items())})
    if not worst:
        finding.violations.append("nobody resumed anything: the run proves nothing")
    if late:
        finding.violations.append(f"still deaf after {within} s: {_some(late)}")
    return finding
