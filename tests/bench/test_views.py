"""Runs are read or refused, speed-ups are right, and Markdown shows what the file says."""

import json
import math
import re

import pytest
from support import bench_example
from support.bench_example import one_case, run_of, timed

from sdn_triton.bench.reports import markdown, page_tables
from sdn_triton.bench.runs.saved_runs import RunFileError, read_run
from sdn_triton.bench.runs.verdicts import share_of_roof, speedup_of, speedups_of, summaries, verdict

# Reading


def test_a_run_is_read_as_written(tmp_path):
    content = bench_example.example()
    run = run_of(tmp_path, content)
    assert run.complete
    assert [case.id for case in run.cases] == [case["id"] for case in content["cases"]]
    case, written = run.cases[4], content["cases"][4]
    assert case.shape == "32x128x128 + 3 stages"
    assert case.elements == 32 * 128 * 128 + 64 * 64 * 64 + 160 * 32 * 32 + 256 * 16 * 16
    assert case.result("unfold").why == "RuntimeError: out of memory"
    assert case.result("eager").median == written["results"]["eager"]["median_ms"]
    assert case.result("eager").rounds == 21


def broken(path, value):
    content = bench_example.example()
    place = content
    for name in path[:-1]:
        place = place[name]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


RESULT = ("cases", 0, "results", "eager")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema is 2"),
        (("schema",), KeyError, "schema is missing"),
        (("complete",), "yes", "complete is 'yes'"),
        (("cases",), {}, "cases is {}"),
        (("cases", 0), 3, "cases[0] is not an object"),
        (("cases", 0, "pass"), "sideways", "cases[0].pass is 'sideways', allowed is one of inference"),
        (("cases", 0, "stages"), [[1, 2]], "cases[0].stages is [[1, 2]]"),
        (("cases", 0, "flop"), 0, "cases[0].flop is 0"),
        (("cases", 0, "id"), "SegFormer-B0 512x512/stage 2/inference", "several cases are called"),
        (("providers", "eager", "role"), "winner", "providers.eager.role is 'winner'"),
        (("providers", "eager"), KeyError, "results.eager is 'eager', allowed is one of the file's providers"),
        ((*RESULT, "status"), "great", "cases[0].results.eager.status is 'great'"),
        ((*RESULT, "median_ms"), math.nan, "median_ms is nan"),
        ((*RESULT, "median_ms"), -1.0, "median_ms is -1.0"),
        ((*RESULT, "median_ms"), True, "median_ms is True"),
        ((*RESULT, "interval_ms"), [2.0, 1.0], "interval_ms is [2.0, 1.0]"),
        ((*RESULT, "peak_bytes"), "much", "peak_bytes is 'much'"),
        (("roofs", "copy_bytes_per_s"), 0.0, "roofs.copy_bytes_per_s is 0.0"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_malformed_file_is_named_with_the_place(tmp_path, path, value, message):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(broken(path, value)))
    with pytest.raises(RunFileError) as error:
        read_run(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"], ids=["empty", "cut off", "a list", "binary"])
def test_what_is_no_run_is_named(tmp_path, text):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(RunFileError, match=re.escape(str(file))):
        read_run(file)
    with pytest.raises(RunFileError, match="cannot be read"):
        read_run(tmp_path / "not there.json")


# Speed-ups


def test_speedup_is_against_the_fastest_baseline_and_never_the_floor(tmp_path):
    results = {
        "conv2d": timed(0.1, 0.1, 0.1),
        "eager": timed(2.0, 1.9, 2.1),
        "unfold": timed(8.0, 7.8, 8.2),
        "compile": timed(3.0, 2.8, 3.2),
    }
    run = run_of(tmp_path, one_case(results))
    speedup = speedup_of(run, run.cases[0], "eager")
    assert speedup.baseline.provider == "compile"
    assert speedup.factor == 1.5
    assert speedup.interval == pytest.approx((2.8 / 2.1, 3.2 / 1.9))
    assert speedup.verdict == "faster"


@pytest.mark.parametrize(
    ("own", "baseline", "expected"),
    [
        ((1, 0.9, 1.1), (2, 1.9, 2.1), "faster"),
        ((2, 1.9, 2.1), (1, 0.9, 1.1), "slower"),
        ((1, 0.9, 1.2), (1.3, 1.1, 1.5), "undecided"),
        ((1, 0.9, 1.1), (1.2, 1.1, 1.3), "undecided"),
        ((1, 0.9, 1.1, 5), (2, 1.9, 2.1, 5), "undecided"),
    ],
    ids=["apart", "apart the other way", "overlap", "touch", "too few rounds"],
)
def test_verdict(tmp_path, own, baseline, expected):
    run = run_of(tmp_path, one_case({"eager": timed(*own), "compile": timed(*baseline)}))
    assert verdict(run.cases[0].result("eager"), run.cases[0].result("compile")) == expected


def test_no_speedup_without_a_baseline_or_a_time(tmp_path):
    alone = run_of(tmp_path, one_case({"eager": timed(1, 1, 1), "conv2d": timed(1, 1, 1)}))
    assert speedups_of(alone) == []
    refused = run_of(tmp_path, one_case({"eager": bench_example.no_result("refused", "w"), "unfold": timed(1, 1, 1)}))
    assert speedups_of(refused) == []
    assert summaries(refused) == []


def test_a_baseline_that_was_refused_is_no_baseline(tmp_path):
    results = {
        "eager": timed(2, 1.9, 2.1),
        "unfold": timed(4, 3.9, 4.1),
        "compile": bench_example.no_result("refused", "wrong"),
    }
    run = run_of(tmp_path, one_case(results))
    assert speedup_of(run, run.cases[0], "eager").baseline.provider == "unfold"


def test_share_of_the_roof(tmp_path):
    # 1e9 operations at 1e11 a second take 10 ms, 5e7 bytes at 1e10 a second 5 ms: half of the 20 ms that were taken.
    run = run_of(tmp_path, one_case({"eager": timed(20.0, 20, 20)}, flop=1e9, bytes=5e7))
    assert share_of_roof(run, run.cases[0], run.cases[0].result("eager")) == pytest.approx(0.5)
    bfloat16 = run_of(tmp_path, one_case({"eager": timed(20.0, 20, 20)}, flop=1e9, bytes=5e7, dtype="bfloat16"))
    assert share_of_roof(bfloat16, bfloat16.cases[0], bfloat16.cases[0].result("eager")) is None


def test_losing_and_winning_are_listed_alike(tmp_path):
    run = run_of(tmp_path)
    slower, undecided, faster = page_tables.speedup_tables(run)
    assert len(slower.rows) + len(undecided.rows) + len(faster.rows) == len(run.cases)
    assert len(slower.rows) >= 2
    assert len(faster.rows) >= 2
    assert slower.columns == faster.columns
    assert all(float(row[3].rstrip("x")) < 1 for row in slower.rows)
    assert all(float(row[3].rstrip("x")) > 1 for row in faster.rows)
    counts = [(s.count("slower"), s.count("faster")) for s in summaries(run)]
    assert (sum(a for a, _ in counts), sum(b for _, b in counts)) == (len(slower.rows), len(faster.rows))


def test_who_was_not_timed_has_a_reason(tmp_path):
    rows = {row[0]: row for row in page_tables.untimed_table(run_of(tmp_path)).rows}
    assert rows["triton"][1:5] == ["unavailable", "Triton kernels need a GPU", "20", "all"]
    assert rows["unfold"][1:4] == ["failed", "RuntimeError: out of memory", "1"]
    assert rows["compile"][1] == "refused"
    assert "layer stage 4: 256x16x16" in rows["compile"][4]


def test_cases_that_are_not_for_a_provider_are_not_counted_as_not_timed(tmp_path):
    content = bench_example.example()
    for case in content["cases"]:
        if case["kind"] == "neck":
            del case["results"]["unfold"]
    run = run_of(tmp_path, content)
    rows = {row[0]: row for row in page_tables.provider_table(run).rows}
    assert rows["unfold"][3:] == ["16", "0"]
    assert rows["conv2d"][3:] == ["20", "0"]
    for case in content["cases"]:
        if case["kind"] != "neck":
            case["results"]["unfold"] = bench_example.no_result("failed", "no")
    rows = {row[0]: row for row in page_tables.untimed_table(run_of(tmp_path, content)).rows}
    assert rows["unfold"][3:5] == ["16", "all"]


# Markdown


def tables_in(text):
    """Markdown's tables: rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_markdown_is_well_formed_and_has_every_result(tmp_path):
    content = bench_example.example()
    text = markdown.report([run_of(tmp_path, content)])
    for table in tables_in(text):
        assert len({len(row) for row in table}) == 1
        assert set("".join(table[1])) <= set(" -:")
    for case in content["cases"]:
        for result in case["results"].values():
            assert result["status"] != "ok" or f"{result['median_ms']:.3g}"[:3] in text
    assert "allowed 2.0e-06 &lt;b>" in text
    assert "**refused**" in text


def test_partial_and_empty_runs_say_so(tmp_path):
    cut = markdown.report([run_of(tmp_path, bench_example.example(complete=False))])
    assert "INCOMPLETE" in cut
    empty = markdown.report([run_of(tmp_path, bench_example.example(cases=[], roofs=None))])
    assert "no cases" in empty
    assert "Nothing was measured." in empty
    assert "INCOMPLETE" not in empty
    untimed = one_case({"eager": bench_example.no_result("skipped", "the budget was spent")})
    assert "No provider was timed" in markdown.report([run_of(tmp_path, untimed)])
