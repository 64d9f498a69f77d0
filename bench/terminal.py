"""What the reader sees: tables and progress, coloured on a terminal, plain lines of any width in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

GOOD, BAD, FAINT = "green", "red", "dim"


class Cell(str):
    """What is shown, by what a column is sorted (None: last), and in pages whether it is good, bad or faint."""

    __slots__ = ("key", "mark")
    key: float | str | None
    mark: str

    def __new__(cls, text: str = "", key: float | str | None = None, mark: str = "") -> Cell:
        cell = super().__new__(cls, text)
        cell.key, cell.mark = key, mark
        return cell


def figure(value: float | None, text: str, mark: str = "") -> Cell:
    """A cell with a number."""
    return Cell() if value is None else Cell(text, float(value), mark)


@dataclass
class Table:
    """Rows under a title. A row's style is one of the colours.

    The first ``heads`` columns say what a row is about. All but the first are figures, unless ``text`` says that only
    those are that have a number.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: bool = False
    heads: int = 1

    def is_figure(self, column: int) -> bool:
        """Whether a column is aligned to the right and never wrapped."""
        return (column > 0 and not self.text) or any(isinstance(row[column].key, float) for row in self.rows)

    def add(self, row: Sequence[str | None], style: str = "") -> None:
        """Append a row; a missing cell is left empty."""
        if len(row) != len(self.columns):
            raise ValueError(f"{self.title}: {len(row)} cells for {len(self.columns)} columns")
        self.rows.append([cell if isinstance(cell, Cell) else Cell(cell or "", cell or None) for cell in row])
        self.styles.append(style)

    def without_empty_columns(self) -> Table:
        """The table without the columns in which no row says anything."""
        kept = [i for i, cells in enumerate(zip(*self.rows, strict=True)) if any(cells)]
        self.columns = [self.columns[i] for i in kept]
        self.rows = [[row[i] for i in kept] for row in self.rows]
        return self

    def plain(self) -> str:
        """The table in aligned plain text, however wide."""
        header = [" ".join(column.split()) for column in self.columns]
        widths = [max(map(len, cells)) for cells in zip(header, *self.rows, strict=True)]
        rows: list[Sequence[str]] = [header, *self.rows]
        lines = ["  ".join(map(self._aligned, range(len(row)), row, widths)) for row in rows]
        rule = "-" * max(map(len, [self.title, *lines]))
        head = [lines[0].rstrip(), rule] if any(header) else [rule]
        return "\n".join([self.title, *head, *(line.rstrip() for line in lines[1:]), *self.notes])

    def _aligned(self, column: int, cell: str, width: int) -> str:
        return cell.rjust(width) if self.is_figure(column) else cell.ljust(width)


class Report:
    """Where tables and progress go: standard output and standard error.

    With ``rich`` installed a terminal gets colours and a progress bar. A pipe, or a terminal without ``rich``, gets
    plain lines. ``most`` says how many seconds are left at most.
    """

    def __init__(self, steps: int, most: Callable[[], float] | None = None) -> None:
        self.steps, self.step, self.most = steps, 0, most
        self.started = time.perf_counter()
        self._console = self._bar = self._task = None
        rich = _rich()
        if rich is None:
            return
        if sys.stdout.isatty():
            self._console = rich.console.Console(highlight=False)
        if sys.stderr.isatty() and steps:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("{task.fields[left]}"),
                console=rich.console.Console(stderr=True),
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
            )
            self._task = self._bar.add_task("", total=steps, left=self.left())

    def __enter__(self) -> Report:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, title: str) -> None:
        """The next step starts."""
        self.step += 1
        if self._bar is None:
            elapsed, left = time.perf_counter() - self.started, self.left()
            times = f"{elapsed:.0f} s{left and f', {left}'}"
            print(f"[{self.step}/{self.steps}, {times}] {title}", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=self.step - 1, left=self.left())

    def left(self) -> str:
        """How long the rest will take if its steps are like those so far; nothing while that cannot be said."""
        ended = max(self.step - 1, 0)
        most = None if self.most is None else max(self.most(), 0.0)
        if not ended:
            return "" if most is None else f"at most {_clock(most)} left"
        guess = (time.perf_counter() - self.started) / ended * (self.steps - ended)
        return f"about {_clock(guess if most is None else min(guess, most))} left"

    def doing(self, what: str) -> None:
        """What goes on inside the step; a pipe is spared it."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def done(self) -> None:
        """The step has ended."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step)

    def say(self, text: str = "", style: str = "") -> None:
        """A line of text."""
        self._print(lambda console: console.print(text, style=style or None, markup=False), text)

    def show(self, table: Table) -> None:
        """A table."""
        self._print(lambda console: _print_rich(console, table), table.plain() + "\n")

    def _print(self, on_console: Any, plain: str) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._console is None:
            print(plain, flush=True)
        else:
            on_console(self._console)
        if self._bar is not None:
            self._bar.start()


def _rich() -> Any:
    try:
        import rich
        import rich.box
        import rich.console
        import rich.progress
        import rich.table
        import rich.text
    except ImportError:
        return None
    return rich


def _print_rich(console: Any, table: Table) -> None:
    rich = _rich()
    grid = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_header=any(table.columns),
    )
    for number, column in enumerate(table.columns):
        figure = table.is_figure(number)
        grid.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for row, style in zip(table.rows, table.styles, strict=True):
        grid.add_row(*map(rich.text.Text, row), style=style or None)
    console.print(rich.text.Text(table.title), style="bold")
    if table.rows:
        console.print(grid)
    for note in table.notes:
        console.print(note, style="red" if "WRONG" in note or "FAILED" in note else "dim", markup=False)
    console.print()


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return "{}:{:02}".format(*divmod(round(seconds), 60))


def milliseconds(seconds: float) -> str:
    """Three digits: 0.123, 1.23, 12.3, 123, 1234."""
    value = seconds * 1e3
    digits = next((n for n, limit in ((3, 1), (2, 10), (1, 100)) if value < limit), 0)
    return f"{value:.{digits}f}"


def ratio(value: float) -> str:
    """A factor with three digits: 1.23x, 12.3x, 123x."""
    digits = next((n for n, limit in ((2, 10), (1, 100)) if value < limit), 0)
    return f"{value:.{digits}f}x"


def mebibytes(size: int) -> str:
    """Bytes in MiB."""
    value = size / 2**20
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def error_size(value: float) -> str:
    """An error with one digit: 3e-07."""
    return "0" if value == 0 else f"{value:.0e}"


def first_line(error: Exception) -> str:
    """The error's type and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
