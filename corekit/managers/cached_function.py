"""Cached functions, whose keys are made of the arguments of each call."""

from __future__ import annotations

import inspect
import string
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial, wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from ..arguments import shown
from ..errors import InvalidArgument, InvalidType

P = ParamSpec("P")
T = TypeVar("T")


class Cached(Protocol):
    """A decorator that makes a function look into the cache first."""

    @overload
    def __call__(
        self, function: Callable[P, Awaitable[T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]: ...


def cached_function(key: str, wrap: Callable[[str, Callable[[], Any]], Awaitable[Any]]) -> Cached:
    """Return a decorator by which calls become `wrap(key, call)`, with *key* as a template."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        template = KeyTemplate(key, function)

        @wraps(function)
        async def cached(*args: Any, **kwargs: Any) -> Any:
            return await wrap(template.key(args, kwargs), partial(function, *args, **kwargs))

        return cached

    return cast(Cached, decorate)


class KeyTemplate:
    """A key with the parameters of one function in it: `"user:{user_id}"`.

    Each field is the name of a parameter, and stands for what a call gives it, or its default; a
    conversion and a format may follow (`{day:%Y-%m}`). Attributes and items are refused: a key
    shows everything that it depends on.

    Raises InvalidType if *template* is no str, and InvalidArgument for a field that is none.
    """

    def __init__(self, template: str, function: Callable[..., Any]) -> None:
        if not isinstance(template, str):
            raise InvalidType(f"key must be a str, not {shown(template)}")
        self._template = template
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise InvalidType(
                f"cached can only decorate a function with a signature, not {shown(function)}"
            ) from None
        self._parameters = tuple(self._signature.parameters)
        self._format = self._positional(template).format
        #: The parameters with their defaults, if they can be filled without `Signature.bind`.
        self._plain = _plain(self._signature)

    def __repr__(self) -> str:
        return f"<KeyTemplate {self._template!r}>"

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call; raises TypeError if the function cannot be called like that."""
        # Signature.bind takes ten times as long; it is asked where it is needed, also for errors.
        if self._plain is not None and len(args) <= len(self._plain):
            values = list(args)
            left = len(kwargs)
            for name, default in self._plain[len(args) :]:
                if name in kwargs:
                    values.append(kwargs[name])
                    left -= 1
                elif default is inspect.Parameter.empty:
                    break
                else:
                    values.append(default)
            else:
                if not left:
                    return self._format(*values)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._format(*bound.arguments.values())

    def _positional(self, template: str) -> str:
        """Return *template* with numbers for names."""
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise InvalidArgument(f"key: {shown(template)} is no template: {error}") from None
        parts = []
        for literal, name, form, conversion in parsed:
            parts.append(literal.replace("{", "{{").replace("}", "}}"))
            if name is not None:
                parts.append(self._field(name, form or "", conversion))
        return "".join(parts)

    def _field(self, name: str, form: str, conversion: str | None) -> str:
        if name not in self._parameters:
            raise InvalidArgument(
                f"key: the field {{{name}}} of {shown(self._template)} must be the name of a "
                f"parameter; there are: {', '.join(self._parameters) or 'none'}"
            )
        if "{" in form or (conversion or "s") not in "sra":
            raise InvalidArgument(
                f"key: the field {{{name}}} of {shown(self._template)} has a format that is "
                "not allowed"
            )
        conversion = f"!{conversion}" if conversion else ""
        return f"{{{self._parameters.index(name)}{conversion}{':' + form if form else ''}}}"


def _plain(signature: inspect.Signature) -> list[tuple[str, Any]] | None:
    """Return parameters and defaults if each can be given by position and by name."""
    parameters = signature.parameters.values()
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        return None
    return [(parameter.name, parameter.default) for parameter in parameters]
