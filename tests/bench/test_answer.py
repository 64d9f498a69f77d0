"""A report begins with the answer: in a line for each path, and in one picture; no panel is empty."""

from collections import Counter
from itertools import pairwise

import pytest
from support import bench_example
from support.bench_example import drawing

from sdn_triton.bench.reports.page_tables import answer
from sdn_triton.bench.runs.saved_runs import read_run
from sdn_triton.bench.runs.verdicts import speedups_of


@pytest.fixture
def run(tmp_path):
    return read_run(bench_example.write(tmp_path / "run.json"))


def test_the_answer_counts_and_names_the_fastest_baseline(run):
    (line,) = answer(run)  # Triton was not timed
    speedups = speedups_of(run)
    count = Counter(s.verdict for s in speedups)
    assert line.startswith(
        f"eager: of {len(speedups)} cases faster than the fastest baseline in {count['faster']}, slower"
    )
    assert f"slower in {count['slower']}, undecided in {count['undecided']};" in line
    factors = [s.factor for s in speedups]
    assert f"{min(factors):.2f}x at worst" in line
    assert f"{max(factors):.2f}x at best" in line
    assert line.endswith("The fastest baseline was compile in 19, unfold in 1.")  # compile was refused in one


def test_a_run_without_a_baseline_has_no_answer(tmp_path):
    content = bench_example.example()
    for case in content["cases"]:
        case["results"] = {"eager": case["results"]["eager"]}
    path = bench_example.write(tmp_path / "run.json", content)
    assert answer(read_run(path)) == []


def test_the_page_begins_with_answer_and_picture(run):
    drawing()
    pytest.importorskip("jinja2", reason="the page needs jinja2: the extra bench")
    from sdn_triton.bench.commands import report

    text = report.html([run])
    (line,) = answer(run)
    places = [text.index(part) for part in (line, "All cases against the fastest baseline", "<table", "More pictures")]
    assert all(before < after for before, after in pairwise(places))


def test_no_panel_is_empty_and_two_are_side_by_side(run):
    charts, _ = drawing()
    (condition, *_) = run.conditions()
    figure, panels = charts._panels(run.under(condition))
    assert set(panels) == {(case.kind, case.pass_) for case in run.under(condition)}
    assert list(figure.axes) == list(panels.values())
    assert {axes.get_gridspec().ncols for axes in panels.values()} == {min(2, len(panels))}
