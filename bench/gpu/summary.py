"""What a run found, in less than a page: what is right, what is wrong, how fast, against which prediction.

``python -m sdn_triton.bench.gpu.summary FOLDER`` makes it anew. Imports neither torch nor anything that does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runs.saved_runs import Case, Run, read_run
from ..runs.verdicts import relative
from . import predicted
from .files import BENCH, ENVIRONMENT, SANITIZER, TABLE, TESTS, Folders, read_json
from .findings import Sanitizer, Smoke, Tests

MOST_LINES, WIDEST = 60, 190
COMPARED = ("conv2d", "eager", "unfold")
"""Whose times are shown beside ours."""
BAD = ("refused", "failed")
SHOWN = 8
"""Failures of one kind that are named."""


def summary(folders: Folders) -> str:
    """The text, within its limits."""
    environment = read_json(folders.result(ENVIRONMENT)) or {"environment": {}, "steps": {}}
    lines = [
        *_machine(environment["environment"]),
        *_compiled((environment["environment"].get("compiled_before") or {}).get("parts", {})),
        *_steps(environment["steps"]),
        *_smoke(Smoke.of(folders)),
        *_tests(Tests.of(folders.result(TESTS))),
        *_sanitizer(folders.result(SANITIZER)),
        *_speed(folders.result(BENCH)),
        *_tuning(read_json(folders.result(TABLE))),
    ]
    return shortened(lines)


def shortened(lines: Sequence[str]) -> str:
    """Lines that are too long or too many are cut, and that is said."""
    kept = [line if len(line) <= WIDEST else f"{line[: WIDEST - 3]}..." for line in lines]
    if len(kept) > MOST_LINES:
        kept[MOST_LINES - 1 :] = [f"... {len(kept) - MOST_LINES + 1} more lines"]
    return "\n".join(kept) + "\n"


def _machine(environment: Mapping[str, Any]) -> Iterable[str]:
    card = environment.get("card") or {}
    device = (environment.get("device") or {}).get("name") or card.get("name") or "no card found"
    packages = environment.get("packages") or {}
    versions = ", ".join(f"{name} {packages.get(name)}" for name in ("torch", "triton"))
    revision, time = (environment.get("git") or {}).get("revision"), environment.get("time")
    yield f"{device}, driver {card.get('driver_version')}; {versions}; revision {revision}; {time}"


def _compiled(parts: Mapping[str, Mapping[str, int]]) -> Iterable[str]:
    counts = [f"{part}: " + ", ".join(f"{n} {what}" for what, n in row.items() if n) for part, row in parts.items()]
    if counts:
        yield f"Compiled before: {'; '.join(counts)}"


def _steps(steps: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    well = [f"{name} {step['seconds']:.0f} s" for name, step in steps.items() if step["status"] == 0]
    yield f"Steps that ended well: {', '.join(well) or 'none'}"
    for name, step in steps.items():
        if step["status"] != 0:
            again = f", begun {step['begun']} times" if step["begun"] > 1 else ""
            ended = step["why"] or f"exit status {step['status']}"
            yield f"  {name}: {'not run: ' if not step['begun'] else ''}{ended}{again}"


def _smoke(smoke: Smoke) -> Iterable[str]:
    if not smoke.rows:
        yield "SMOKE: nothing was found out"
        return
    right, nothing = smoke.count(True), smoke.count(None)
    yield f"SMOKE: {right} right, {len(smoke.wrong())} WRONG, {nothing} not reached or not claimed"
    for row in smoke.wrong()[:SHOWN]:
        variants = ", ".join(smoke.right_variants(row)) or "none that was tried"
        yield f"  WRONG {row['family']}, {row['arithmetic']}, {row['shape']}; right: {variants}; {row['why']}"
    yield from _more(smoke.wrong())
    for row in smoke.questions():
        if "repeats" in row:
            yield (
                f"  {row['family']}: {', '.join(row['kernels'])}, {row['variant']}: wrong in {row['wrong_repeats']} of "
                f"{row['repeats']} repeats; such instructions in the machine code: {row['hazards_in_machine_code']}"
            )


def _more(failures: Sequence[object]) -> Iterable[str]:
    if len(failures) > SHOWN:
        yield f"  and {len(failures) - SHOWN} more"


def _tests(tests: Tests) -> Iterable[str]:
    for group, counts in tests.counts.items():
        begun, ended = tests.begun[group], tests.ended[group]
        counted = ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "skipped"))
        if len(ended) < begun:
            yield f"TESTS, {group}: CUT OFF: {counted} until then"
        else:
            yield f"TESTS, {group}: {ended[0] if begun == 1 else f'{counted}, in {begun} processes'}"
    for name, ids in list(tests.failed.items())[:SHOWN]:
        yield f"  FAILED {name} ({len(ids)} times): {tests.said.get(name, '')}"
    yield from _more(list(tests.failed))


def _sanitizer(path: Path | None) -> Iterable[str]:
    if path is None:
        return
    sanitizer = Sanitizer.of(path.read_text(encoding="utf-8", errors="replace"))
    counted = "it did not come to count errors" if sanitizer.errors is None else f"{sanitizer.errors} errors"
    yield f"SANITIZER: {counted}; {sanitizer.tasks} of smoke's tasks ended under it"
    yield from (f"  {line}" for line in sanitizer.said[:3])


def _speed(path: Path | None) -> Iterable[str]:
    if path is None:
        return
    bench, file = read_run(path), predicted.newest()
    content = read_json(file) or {"versions": []}
    compared = predicted.compared(predicted.by_case(content, bench.environment["triton"]), bench)
    row_of = {row.predicted.id: row for row in compared}
    source = f"predictions of {file.stem}" if file else "no predictions"
    yield f"SPEED: microseconds (medians), times of conv2d with its 95 % interval; {source}"
    for case in bench.cases:
        yield f"  {_case(bench, case, row_of.get(case.id))}"
    if not bench.complete:
        yield "  not all cases were reached"


def _case(bench: Run, case: Case, row: predicted.Row | None) -> str:
    stage = "x".join(map(str, case.stages[0]))
    name = f"{case.kind} {case.network} {stage} {case.pass_} {case.condition.mode}"
    times = {result.provider: result for result in case.timed()}
    ours = next((provider for provider in ("triton", "eager") if provider in times), None)
    wrong = [f"{r.provider} {r.status.upper()}: {r.why}" for r in case.results if r.status in BAD]
    if ours is None:
        reasons = wrong or [str(result.why) for result in case.results]
        return f"{name}: no time: {'; '.join(reasons[:2])}"
    shown = [f"{provider} {times[provider].median * 1e3:.1f}" for provider in (ours, *COMPARED) if provider in times]
    text = f"{name}: {', '.join(dict.fromkeys(shown))}"
    if predicted.FLOOR in times:
        median, (low, high) = relative(bench, times[ours], times[predicted.FLOOR])
        text += f"; {median:.2f} [{low:.2f}-{high:.2f}]"
    if row is not None:
        text += f"; predicted {row.predicted.ms * 1e3:.1f}, {row.predicted.ratio:.2f}: {row.verdict}"
    return "; ".join([text, *wrong])


def _tuning(table: Mapping[str, Any] | None) -> Iterable[str]:
    if table is None:
        return
    for entry in (*table["entries"], *table.get("unfinished", ())):
        counts = f"{len(entry['timed'])} right, {len(entry['rejected'])} rejected"
        again = entry.get("again") or {}
        times = ", ".join(
            f"{name} {row['microseconds']:.1f} [{row['interval'][0]:.1f}-{row['interval'][1]:.1f}]"
            for name, row in again.items()
        )
        yield f"TUNED {entry['kernel']} {entry['shape']}: {counts}; {times or 'not timed once more'}"
        if "winner" in again:
            same = " (the heuristic's)" if entry["config"] == (entry.get("heuristic") or {}).get("config") else ""
            fields = ",".join(f"{name}={value}" for name, value in entry["config"].items() if name != "source")
            yield f"  winner{same}: {fields}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary of a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.summary", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="what `make gpu OUT=folder` wrote")
    parser.add_argument("--first", type=Path, metavar="FOLDER", help="that of part 1")
    args = parser.parse_args(argv)
    for folder in filter(None, (args.folder, args.first)):
        if not folder.is_dir():
            parser.error(f"there is no folder {str(folder)!r}")
    sys.stdout.write(summary(Folders(args.folder, args.folder, args.first or args.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
