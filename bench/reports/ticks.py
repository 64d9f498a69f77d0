"""Numbers on axes, as people write them."""

from __future__ import annotations

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator


def round_ticks(axis: Axis) -> None:
    """Numbers as people write them, more of them between the powers of ten where few of these are in sight."""
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() == "log":
        decades = math.log10(high / low)
        subs = (1, 1.5, 2, 3, 5, 7) if decades < 0.9 else (1, 2, 5) if decades < 2.3 else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A round number: 0.05, 200, 50k, 2M."""
    exponent = max(0, min(int(math.log10(value) // 3 + 1e-9), 4)) if value > 0 else 0
    return f"{value / 1000**exponent:g}{['', 'k', 'M', 'G', 'T'][exponent]}"


def rate(value: float, unit: str) -> str:
    """Three digits with the prefix of the unit: ``42.5 Gflop/s``."""
    exponent = min(int(math.log10(value) // 3), 5)
    return f"{value / 1000**exponent:.3g} {['', 'k', 'M', 'G', 'T', 'P'][exponent]}{unit}"
