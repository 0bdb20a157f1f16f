"""Numbers as people read them."""

from __future__ import annotations

from ..contracts import Figure

_SI = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def shown(value: float | None, figure: Figure) -> str:
    """Return *value* with three digits and the unit of *figure*; "-" for None."""
    if value is None:
        return "-"
    if figure.unit == "s":
        return _with(value, _SECONDS, "s")
    if figure.unit == "B":
        return _with(value, _BYTES, "B")
    if figure.unit == "/s":
        return f"{_with(value, _SI, '')}/s"
    return f"{value:.3g}"


def shown_ratio(ratio: float | None) -> str:
    """Return *ratio* as "2.50 x"; "" for None."""
    if ratio is None:
        return ""
    if ratio >= 9.995:
        return f"{ratio:,.0f} x"
    return f"{ratio:.2f} x" if ratio >= 0.0995 else f"{ratio:.2g} x"


def shown_spread(spread: float | None) -> str:
    """Return *spread*, a share, as "± 3 %"; "" for None."""
    return "" if spread is None else f"± {spread * 100:.0f} %"


def _with(value: float, scale: tuple[tuple[float, str], ...], unit: str) -> str:
    for size, name in scale:
        if abs(value) >= size * 0.9995:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
