"""What an instance serves: requests, background topics, or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .arguments import shown
from .errors import ConfigurationError, InvalidName, InvalidType

_TOPIC = re.compile(r"[A-Za-z0-9_.:@/-]+")

_GRAMMAR = (
    "allowed: '!' (requests), '*' (every background topic), topics such as 'a,b', "
    "'!,a' or '*,!' (both), '-' alone (nothing)"
)


@dataclass(frozen=True, slots=True)
class WorkerMode:
    """A parsed worker mode."""

    requests: bool = True
    """Whether this instance serves requests."""

    topics: frozenset[str] | None = None
    """The background topics that it serves; None means every topic."""

    transient: bool = False
    """Whether it is a short-lived command, which serves nothing at all."""

    @classmethod
    def parse(cls, text: str | None) -> WorkerMode:
        """Return the mode that *text* describes; None (unset) serves everything.

        Parts are separated by commas, blanks around them ignored. Raises ConfigurationError, or
        InvalidType if *text* is no str.
        """
        if text is None:
            return cls()
        if not isinstance(text, str):
            raise InvalidType(f"worker_mode must be a str, not {shown(text)}")
        parts = [part.strip() for part in text.split(",")]
        if parts == ["-"]:
            return cls(requests=False, topics=frozenset(), transient=True)
        topics = {part for part in parts if part not in {"!", "*"}}
        every = "*" in parts
        wrong = [part for part in topics if part == "-" or not _TOPIC.fullmatch(part)]
        if wrong or (every and topics):
            reason = f"{shown(wrong[0])} is no topic" if wrong else "'*' already means every topic"
            raise ConfigurationError(f"worker_mode={shown(text)}: {reason}; {_GRAMMAR}")
        return cls(requests="!" in parts, topics=None if every else frozenset(topics))

    def serves(self, topic: str | None = None) -> bool:
        """Tell whether background *topic* (None: requests) is served here.

        Raises InvalidType or InvalidName for something that cannot be a topic.
        """
        if topic is None:
            return self.requests
        if not isinstance(topic, str):
            raise InvalidType(f"topic must be a str, not {shown(topic)}")
        if not _TOPIC.fullmatch(topic):
            raise InvalidName(f"topic must match {_TOPIC.pattern}, not {shown(topic)}")
        return self.topics is None or topic in self.topics

    def consumes(self, topic: str | None) -> bool:
        """Tell whether a channel of *topic* is consumed here.

        A channel without a topic is consumed everywhere but in short-lived commands.
        """
        return not self.transient if topic is None else self.serves(topic)
