"""How pictures look: one colour, marker and line for each provider everywhere, on a light and on a dark ground.

Every colour of a provider has a contrast of at least 3:1 to both grounds. No two providers share a marker, so that
nothing depends on telling colours apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple


class Style(NamedTuple):
    """Colour, marker and line of a provider.

    Ours have full lines and filled markers, baselines dashed lines and hollow markers, the floor a dotted line.
    """

    colour: str
    marker: str
    line: str

    @property
    def options(self) -> dict[str, Any]:
        """For the markers of a plot."""
        filled = self.line == "-"
        return dict(
            marker=self.marker,
            color=self.colour,
            markerfacecolor=self.colour if filled else "none",
            markeredgewidth=1.4,
        )


STYLES = {
    "conv2d": Style("#7f7f7f", "o", ":"),
    "triton": Style("#0077bb", "H", "-"),
    "triton-tuned": Style("#009988", "*", "-"),
    "triton-default": Style("#5f8fd9", "8", "-"),
    "unfused": Style("#aa4499", "P", "-"),
    "eager": Style("#228833", "D", "-"),
    "unfold": Style("#cc3311", "v", "--"),
    "unfold-compile": Style("#e0701f", "^", "--"),
    "compile": Style("#b0800f", "X", "--"),
    "conv2d-compile": Style("#6f6f6f", "s", ":"),
    "central": Style("#c2458a", "p", ":"),
}
SPARE = (
    Style("#8a6d3b", "<", "-."),
    Style("#5e7f2e", ">", "-."),
    Style("#6f5fc0", "h", "-."),
    Style("#4d8a99", "d", "-."),
)
"""For providers that are not known here, in their order."""


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of every provider of a run."""
    unknown = [name for name in names if name not in STYLES]
    return STYLES | {name: SPARE[i % len(SPARE)] for i, name in enumerate(unknown)}


@dataclass(frozen=True)
class Theme:
    """The colours of everything that is no figure."""

    name: str
    ground: str
    ink: str
    faint: str
    grid: str

    @contextmanager
    def __call__(self, text_as_paths: bool = True) -> Iterator[None]:
        """Matplotlib's settings while drawing and saving; the same input gives the same bytes."""
        import matplotlib

        settings: dict[str, Any] = {
            "figure.facecolor": self.ground,
            "savefig.facecolor": self.ground,
            "axes.facecolor": "none",
            "axes.edgecolor": self.faint,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.labelsize": 10,
            "grid.color": self.grid,
            "grid.linewidth": 0.7,
            "text.color": self.ink,
            "xtick.color": self.ink,
            "ytick.color": self.ink,
            "legend.labelcolor": self.ink,
            "legend.frameon": False,
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "figure.titlesize": 12,
            "lines.markersize": 6,
            "svg.fonttype": "path" if text_as_paths else "none",
            "svg.hashsalt": "sdn_triton",
            "savefig.dpi": 160,
        }
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(settings)
            yield


LIGHT = Theme("light", ground="#ffffff", ink="#1f2328", faint="#6e7781", grid="#dfe3e8")
DARK = Theme("dark", ground="#0d1117", ink="#e6edf3", faint="#8b949e", grid="#2a313a")
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

# Colours that stand for those of the page around an inline picture, and the variables that take their place.
INLINE = Theme("inline", ground="none", ink="#010203", faint="#040506", grid="#070809")
INLINE_VARIABLES = {"#010203": "var(--ink)", "#040506": "var(--faint)", "#070809": "var(--grid)"}
