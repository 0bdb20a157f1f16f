"""What holders of names announce, inside one process."""

from __future__ import annotations

from .signal import Signal


def covers(prefix: str, name: str) -> bool:
    """Tell whether *name* is *prefix*, or below it."""
    return name.startswith(prefix) and (len(name) == len(prefix) or name[len(prefix)] == "/")


class Announcements:
    """The values that are shown, by name, and who watches them. Guarded by the lock of its hub."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._watchers: dict[Signal, str] = {}

    def __repr__(self) -> str:
        return f"<Announcements values={len(self.values)} watchers={len(self._watchers)}>"

    def add(self, name: str, value: bytes) -> None:
        """Show *value* under *name*."""
        self.values[name] = value
        self.touch(name)

    def remove(self, name: str) -> None:
        """Show nothing under *name* any more."""
        if self.values.pop(name, None) is not None:
            self.touch(name)

    def touch(self, name: str) -> None:
        """Wake those who watch *name*: its value, or when it will end, has changed."""
        for watcher, prefix in list(self._watchers.items()):
            # A closed loop has no use for its watcher any more.
            if covers(prefix, name) and not watcher.wake():
                del self._watchers[watcher]

    def under(self, prefix: str) -> dict[str, bytes]:
        """Return the values under *prefix*, by name."""
        return {name: value for name, value in self.values.items() if covers(prefix, name)}

    def watch(self, prefix: str) -> Signal:
        """Return a signal that is woken by each change under *prefix*, until `unwatch`."""
        watcher = Signal()
        self._watchers[watcher] = prefix
        return watcher

    def unwatch(self, watcher: Signal) -> None:
        """Wake *watcher* no more."""
        self._watchers.pop(watcher, None)
