"""``sdn-triton bench compare``: what noise explains is no change, and what it does not is found."""

import copy
import json
import random
import re
from pathlib import Path

import pytest
from support import bench_example
from support.places import EXAMPLE

from sdn_triton.bench.commands import compare_runs
from sdn_triton.bench.commands.compare_runs import FASTER, SAME, SLOWER, UNKNOWN
from sdn_triton.bench.runs import saved_runs
from sdn_triton.cli import main

TRUE_MS = {"conv2d": 1.0, "eager": 2.0, "unfold": 8.0}
ROLES = {"conv2d": "floor", "eager": "ours", "unfold": "baseline"}


def compared(before, after, **options):
    runs = (saved_runs.run_of(Path("made up"), content) for content in (before, after))
    return compare_runs.Comparison(*runs, **options)


def result(samples):
    ordered = sorted(samples)
    return {
        "status": "ok", "why": None, "median_ms": ordered[len(ordered) // 2], "interval_ms": [ordered[0], ordered[-1]],
        "samples_ms": samples, "peak_bytes": 1, "error": 0.1,
    }  # fmt: skip


def run_of(seed, factors=(), machine=1.0, rounds=25, cases=4, noise=0.05, interleaved=True):
    """A made-up run: every round of a case has a pace of its own, every call its noise, one in twenty a disturbance."""
    draw = random.Random(seed)
    factors = dict(factors)
    made = []
    for number in range(cases):
        paces = [machine * draw.lognormvariate(0, noise) for _ in range(rounds)]
        results = {
            name: result(
                [
                    pace * time * factors.get((number, name), 1.0) * draw.lognormvariate(0, noise)
                    * (1 + (draw.random() < 0.05) * draw.expovariate(1))
                    for pace in paces
                ]
            )
            for name, time in TRUE_MS.items()
        }  # fmt: skip
        only = bench_example.case("Net 64x64", "layer", f"stage {number}", [[4, 16, 16]])
        made.append(only | {"id": f"case {number}", "results": results})
    return {
        "schema": 1,
        "complete": True,
        "environment": {"torch": "1"},
        "settings": {"interleaved": interleaved},
        "roofs": None,
        "providers": {name: {"title": name, "role": role} for name, role in ROLES.items()},
        "cases": made,
    }


def test_noise_is_no_change():
    """Of 3600 comparisons of equal distributions none is called a change."""
    for seed in range(300):
        comparison = compared(run_of(2 * seed), run_of(2 * seed + 1))
        assert len(comparison.of(SAME)) == len(comparison.changes) == 12
        assert not comparison.is_worse


def test_noise_is_seldom_a_change_without_a_threshold():
    """The intervals alone: two of 99 % that are apart by chance are rarer than one in two hundred."""
    comparisons = [compared(run_of(2 * seed), run_of(2 * seed + 1), threshold=0.0) for seed in range(300)]
    found = sum(len(comparison.changes) - len(comparison.of(SAME)) for comparison in comparisons)
    assert found < 3600 / 200


@pytest.mark.parametrize("provider", ["eager", "unfold"])
def test_twenty_per_cent_are_found(provider):
    for seed in range(100):
        before, slower = run_of(2 * seed, noise=0.03), run_of(2 * seed + 1, {(2, provider): 1.2}, noise=0.03)
        comparison = compared(before, slower)
        (change,) = comparison.of(SLOWER)
        assert (change.case, change.provider) == ("case 2", provider)
        assert 1.1 < change.times < 1.35
        assert change.interval.low <= change.times <= change.interval.high
        assert not comparison.of(FASTER)
        assert comparison.is_worse
        (back,) = compared(slower, before).of(FASTER)
        assert (back.case, back.provider) == ("case 2", provider)


def test_twenty_per_cent_are_mostly_found_in_more_noise():
    runs = [(run_of(2 * seed), run_of(2 * seed + 1, {(2, "eager"): 1.2})) for seed in range(100)]
    found = [change for pair in runs for change in compared(*pair).of(SLOWER)]
    assert {(change.case, change.provider) for change in found} == {("case 2", "eager")}
    assert len(found) >= 90


def test_a_slower_machine_is_no_slower_library():
    """All calls take half as long again: the floor says so, and nothing is held against anybody else."""
    comparison = compared(run_of(0), run_of(1, machine=1.5))
    assert {change.provider for change in comparison.of(SLOWER)} == {"conv2d"}
    assert all(change.of_floor for change in comparison.of(SLOWER))
    # Without rounds in turns there is nothing that tells the two apart.
    lonely = compared(run_of(0), run_of(1, machine=1.5, interleaved=False))
    assert {change.provider for change in lonely.of(SLOWER)} == set(TRUE_MS)


def test_a_small_difference_is_below_the_threshold():
    after = run_of(1, {(0, "eager"): 1.06}, noise=0.002)
    assert not compared(run_of(0, noise=0.002), after).of(SLOWER)
    (change,) = compared(run_of(0, noise=0.002), after, threshold=0.03).of(SLOWER)
    assert change.provider == "eager"


def test_few_rounds_say_nothing():
    comparison = compared(run_of(0, rounds=7), run_of(1, {(0, "eager"): 5.0}, rounds=7))
    assert {change.verdict for change in comparison.changes} == {UNKNOWN}


def test_what_stopped_working_is_worse():
    before, after = run_of(0), run_of(1)
    after["cases"][1]["results"]["eager"] |= {"status": "refused", "why": "output: error 1"}
    comparison = compared(before, after)
    assert comparison.became == [("case 1", "eager", "ok", "refused", "output: error 1")]
    assert comparison.is_worse
    after["cases"][1]["results"]["eager"] |= {"status": "skipped", "why": "no time"}
    assert not compared(before, after).is_worse
    assert not compared(after, before).is_worse


def test_what_only_one_file_has_is_counted():
    before, after = run_of(0), run_of(1)
    del before["cases"][0], after["cases"][3]
    comparison = compared(before, after)
    assert (comparison.only_before, comparison.only_after) == (["case 3"], ["case 0"])
    assert len(comparison.pairs) == 2
    assert "Only in A: 1 cases." in compare_runs.conclusion(comparison)


def written(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_the_command_ends_with_what_it_found(tmp_path, capsys):
    a = written(tmp_path / "a.json", run_of(0))
    b = written(tmp_path / "b.json", run_of(1))
    c = written(tmp_path / "c.json", run_of(1, {(2, "eager"): 1.5}) | {"environment": {"torch": "2"}})
    assert main(["bench", "compare", a, b]) == 0
    shown = capsys.readouterr().out
    assert "12 times in 4 cases compared: 0 slower, 0 faster, 12 no change" in shown
    assert "environments differ" not in shown
    assert main(["bench", "compare", a, c]) == 1
    shown = capsys.readouterr().out
    assert "The environments differ in torch: '1', then '2'" in shown
    assert "Slower: 1" in shown
    assert re.search(r"^case 2 +eager ", shown, re.MULTILINE)
    assert main(["bench", "compare", c, a]) == 0
    assert "Faster: 1" in capsys.readouterr().out
    assert main(["bench", "compare", a, c, "--threshold", "0.9"]) == 0


def test_a_cpu_differs_by_more_between_processes(tmp_path):
    """There a fifth is no change and a half is one, unless --threshold says otherwise."""
    cpu = {"environment": {"device": {"type": "cpu"}}}
    a = written(tmp_path / "a.json", run_of(0, noise=0.02) | cpu)
    b = written(tmp_path / "b.json", run_of(1, {(2, "eager"): 1.2}, noise=0.02) | cpu)
    c = written(tmp_path / "c.json", run_of(1, {(2, "eager"): 1.6}, noise=0.02) | cpu)
    assert main(["bench", "compare", a, b]) == 0
    assert main(["bench", "compare", a, b, "--threshold", "0.1"]) == 1
    assert main(["bench", "compare", a, c]) == 1


def test_a_real_run_is_like_itself(capsys):
    assert main(["bench", "compare", str(EXAMPLE), str(EXAMPLE)]) == 0
    assert "0 slower, 0 faster" in capsys.readouterr().out


def test_wrong_files_say_so(tmp_path, capsys):
    other = copy.deepcopy(run_of(0))
    for case in other["cases"]:
        case["id"] += ", elsewhere"
    paths = {
        "no case in common": written(tmp_path / "other.json", other),
        "cannot be read": str(tmp_path / "absent.json"),
        "the file is not an object": written(tmp_path / "list.json", []),
        "schema is 2, this version reads 1": written(tmp_path / "new.json", run_of(0) | {"schema": 2}),
    }
    for message, path in paths.items():
        with pytest.raises(SystemExit) as stopped:
            main(["bench", "compare", written(tmp_path / "a.json", run_of(0)), path])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "compare", paths["no case in common"], paths["no case in common"], "--threshold", "10"])
    assert "is not a share" in capsys.readouterr().err
