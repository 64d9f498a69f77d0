"""How a benchmark is run in front of the reader: said beforehand, shown case by case, summed up, kept in a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measuring.environment import fingerprint
from ..measuring.roofs import measure_roofs
from ..problems.cases import DTYPES, BenchCase
from ..problems.providers import FLOOR, PROVIDERS
from ..reports.run_tables import LEGEND, case_table, introduction, summary_tables
from ..runs.budget import Budget
from ..runs.record import Record
from ..runs.runner import Runner
from ..runs.saved_runs import Run, RunFileError
from ..terminal import BAD, FAINT, Report, Table

FEW = 6
"""So many problems are named; of more it is said how many they are."""


class View:
    """What is shown of a run while it goes on: a table a case, then all of them in one."""

    legend: Sequence[str] = LEGEND

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()
        """Providers that cannot run and why, where it has been said."""

    def steps(self, cases: Sequence[BenchCase]) -> int:
        """How many steps these cases are shown as."""
        return len(cases)

    def begin(self, report: Report, case: BenchCase) -> None:
        """A case begins."""
        report.begin(case.id)

    def done(self, report: Report, run: Run, case: BenchCase) -> None:
        """A case is in the file."""
        report.done()
        report.show(case_table(run, run.case(case.id), self.told))

    def summary(self, run: Run) -> list[Table]:
        """What came of all cases."""
        return summary_tables(run)

    def remark(self, run: Run, unfinished: int, cases: int) -> str | None:
        """A warning; so many of the cases have results missing for want of time."""
        if not unfinished:
            return None
        return f"{unfinished} of {cases} cases did not fit the budget: the same command with --resume goes on."


def chosen_providers(asked: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The floor and those that were asked for, in the order of the tables."""
    return [name for name in PROVIDERS if name == FLOOR or name in (asked or default)]


def runner_for(
    args: argparse.Namespace,
    providers: Sequence[str],
    rounds: tuple[int, int],
    *,
    resume: bool = False,
    replace: bool = False,
    **settings: Any,
) -> Runner:
    """A runner within ``args.budget`` that writes to ``args.json``; an error of usage if it cannot."""
    settings = {
        "command": args.command,
        **settings,
        "budget_seconds": args.budget,
        "rounds": list(rounds),
        "interleaved": True,
        "interval_level": 0.95,
    }
    try:
        record = Record(args.json, fingerprint(args.device), settings, resume, replace)
    except RunFileError as error:
        args.parser.error(str(error))
    record.content["providers"] |= {n: {"title": PROVIDERS[n].title, "role": PROVIDERS[n].role} for n in providers}
    return Runner(args.device, providers, record, Budget(args.budget, args.device.type), rounds)


def run_and_show(
    runner: Runner,
    cases: Sequence[BenchCase],
    view: View,
    left_out: Mapping[str, str] | None = None,
    with_roofs: bool = True,
) -> int:
    """Run the cases that are not finished; 1 if a provider was wrong or broke, or the file had to go elsewhere.

    ``left_out`` has providers that were not chosen, and why. ``with_roofs`` measures what the device can do at best,
    for the file.
    """
    record, path = runner.record, runner.record.path
    todo = runner.unfinished(cases)
    report = Report(view.steps(todo), most=lambda: runner.budget.left)
    with report:
        _say_beforehand(report, runner, cases, todo, view, left_out or {})
        if with_roofs and path is not None and record.content["roofs"] is None and todo:
            report.doing("measuring the roofs")
            dtypes = tuple(DTYPES[name] for name in dict.fromkeys(case.dtype for case in cases))
            record.content["roofs"] = measure_roofs(runner.device, dtypes)
            record.write()
        runner.run(
            todo,
            lambda case: view.begin(report, case),
            report.doing,
            lambda case, results: view.done(report, record.run, case),
        )
        unfinished = len(runner.unfinished(cases))
        record.content["complete"] = unfinished == 0
        record.write()
        for table in view.summary(record.run):
            report.show(table)
        if remark := view.remark(record.run, unfinished, len(cases)):
            report.say(remark, BAD)
        if record.path is not None:
            report.say(f"Written to {record.path}")
    mistakes = list(_mistakes(record.content))
    for line in mistakes:
        report.say(line, BAD)
    return int(bool(mistakes) or record.path != path)


def _say_beforehand(
    report: Report,
    runner: Runner,
    cases: Sequence[BenchCase],
    todo: Sequence[BenchCase],
    view: View,
    left_out: Mapping[str, str],
) -> None:
    """What runs where, what does not and why not, what there will be no time for, what is there already."""
    unavailable = _unavailable(runner, cases)
    view.told.update(unavailable.items())
    compilers = [n for n in runner.providers if PROVIDERS[n].compiled and n not in unavailable]
    for line in introduction(runner.record.run, {**unavailable, **left_out}, *view.legend):
        report.say(line)
    if (problems := runner.plan(todo)) and compilers:
        names = [problem[0].title.partition(":")[0] for problem in problems]
        which = (
            "; ".join(names)
            if len(names) <= FEW
            else f"{len(names)} of {len({case.problem for case in todo})} problems"
        )
        seconds = f"{runner.budget.layer_seconds:.0f} s a layer"
        report.say(f"{', '.join(compilers)}: if compiling takes {seconds}, left out of {which} (see --budget)", FAINT)
    if len(todo) < len(cases):
        report.say(f"{len(cases) - len(todo)} of {len(cases)} cases are finished and kept.", FAINT)


def _unavailable(runner: Runner, cases: Sequence[BenchCase]) -> dict[str, str]:
    """The providers that can run none of the cases here, and why."""
    dtypes = [DTYPES[name] for name in dict.fromkeys(case.dtype for case in cases)]
    reasons = {n: [PROVIDERS[n].unavailable(runner.device, dtype) for dtype in dtypes] for n in runner.providers}
    return {name: str(by_dtype[0]) for name, by_dtype in reasons.items() if all(by_dtype)}


def _mistakes(content: Mapping[str, Any]) -> Iterable[str]:
    """Where a provider that is no compiler's was wrong or broke: a compiler's mistakes are shown, and not ours.

    Inductor of torch 2.13 loses the gradient of resized guidance on a CPU.
    """
    for case in content["cases"]:
        for name, result in case["results"].items():
            ours = name in PROVIDERS and not PROVIDERS[name].compiled
            if ours and result["status"] in ("refused", "failed"):
                yield f"{case['id']}: {name} {result['status']}: {result['why']}"


def kept(path: Path | None) -> str:
    """What remains of a run that was stopped."""
    return f"stopped; {path} has every finished case" if path is not None and path.exists() else "stopped"
