"""Docstrings as mkdocs reads them: formulas, references and examples, which are written as for Sphinx and in LaTeX."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

MATH = re.compile(r"^( *)\.\. math:: (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
CODE = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")
LITERAL = re.compile(r"``(.+?)``", re.DOTALL)


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each object that was found in the sources."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """The docstring in Markdown: formulas as MathML, which browsers show by themselves.

    Example:
        >>> rewritten("As :class:`~sdn_triton.SDN`, see :func:`torch.square` of ``x``.")
        'As [`SDN`][sdn_triton.SDN], see `torch.square` of `x`.'
    """
    text = MATH.sub(_formula, text)
    text = CODE.sub(lambda match: f"{match[1]}```{match[2]}\n{_dedented(match)}{match[1]}```\n", text)
    text = ROLE.sub(_reference, text)
    text = LITERAL.sub(lambda match: f"`{' '.join(match[1].split())}`", text)
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def _formula(match: re.Match[str]) -> str:
    formula = convert(" ".join(match[2].split()), display="block")
    return f'{match[1]}<p class="math">{formula}</p>'


def _dedented(match: re.Match[str]) -> str:
    return textwrap.indent(textwrap.dedent(match[3]).strip("\n") + "\n", match[1])


def _reference(match: re.Match[str]) -> str:
    """A link to what this site describes; code for everything else."""
    name = match[1]
    *above, last = name.split(".")
    if above[:1] == ["sdn_triton"]:
        return f"[`{last}`][{name}]"
    return f"`{name}`"
