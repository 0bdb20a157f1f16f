"""The base class of application plugins (to be completed)."""


class Plugin:
    """A part of an application."""

    name: str
