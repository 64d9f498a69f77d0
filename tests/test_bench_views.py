"""What people look at: runs are read or refused, standings are right, pictures and pages show what the file says."""

import argparse
import copy
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import bench_example
import pytest

from sdn_triton.bench import markdown, sheets, theme
from sdn_triton.bench.runs import RunFileError, read_run
from sdn_triton.bench.standing import share_of_roof, standing, standings, summaries, verdict

ROOT = Path(__file__).parent.parent


def drawing():
    """The modules that draw; the calling test is skipped where matplotlib is not installed."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: the extra bench")
    from sdn_triton.bench import charts, plots

    return charts, plots


def run_of(tmp_path, content=None):
    return read_run(bench_example.write(tmp_path / "run.json", content))


def timed(median, low, high, rounds=9):
    return {
        "status": "ok",
        "why": None,
        "median_ms": median,
        "interval_ms": [low, high],
        "samples_ms": [median] * rounds,
    }


def one_case(results, **fields):
    """A run of one case with exactly these results."""
    case = bench_example.case("Net 64x64", "layer", "stage 1", [[4, 16, 16]]) | {"results": results} | fields
    return bench_example.example(cases=[case])


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


# Standing


def test_speedup_is_against_the_fastest_baseline_and_never_the_floor(tmp_path):
    results = {
        "conv2d": timed(0.1, 0.1, 0.1),
        "eager": timed(2.0, 1.9, 2.1),
        "unfold": timed(8.0, 7.8, 8.2),
        "compile": timed(3.0, 2.8, 3.2),
    }
    run = run_of(tmp_path, one_case(results))
    found = standing(run, run.cases[0], "eager")
    assert found.baseline.provider == "compile"
    assert found.speedup == 1.5
    assert found.interval == pytest.approx((2.8 / 2.1, 3.2 / 1.9))
    assert found.verdict == "faster"


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((1, 0.9, 1.1), (2, 1.9, 2.1), "faster"),
        ((2, 1.9, 2.1), (1, 0.9, 1.1), "slower"),
        ((1, 0.9, 1.2), (1.3, 1.1, 1.5), "undecided"),
        ((1, 0.9, 1.1), (1.2, 1.1, 1.3), "undecided"),
        ((1, 0.9, 1.1, 5), (2, 1.9, 2.1, 5), "undecided"),
    ],
    ids=["apart", "apart the other way", "overlap", "touch", "too few rounds"],
)
def test_verdict(tmp_path, own, other, expected):
    run = run_of(tmp_path, one_case({"eager": timed(*own), "compile": timed(*other)}))
    assert verdict(run.cases[0].result("eager"), run.cases[0].result("compile")) == expected


def test_no_standing_without_a_baseline_or_a_time(tmp_path):
    alone = run_of(tmp_path, one_case({"eager": timed(1, 1, 1), "conv2d": timed(1, 1, 1)}))
    assert standings(alone, alone.cases) == []
    refused = run_of(tmp_path, one_case({"eager": bench_example.no_result("refused", "w"), "unfold": timed(1, 1, 1)}))
    assert standings(refused, refused.cases) == []
    assert summaries(refused) == []


def test_a_baseline_that_was_refused_is_no_baseline(tmp_path):
    results = {
        "eager": timed(2, 1.9, 2.1),
        "unfold": timed(4, 3.9, 4.1),
        "compile": bench_example.no_result("refused", "wrong"),
    }
    run = run_of(tmp_path, one_case(results))
    assert standing(run, run.cases[0], "eager").baseline.provider == "unfold"


def test_share_of_the_roof(tmp_path):
    # 1e9 operations at 1e11 a second take 10 ms, 5e7 bytes at 1e10 a second 5 ms: half of the 20 ms that were taken.
    run = run_of(tmp_path, one_case({"eager": timed(20.0, 20, 20)}, flop=1e9, bytes=5e7))
    assert share_of_roof(run, run.cases[0], run.cases[0].result("eager")) == pytest.approx(0.5)
    other = run_of(tmp_path, one_case({"eager": timed(20.0, 20, 20)}, flop=1e9, bytes=5e7, dtype="bfloat16"))
    assert share_of_roof(other, other.cases[0], other.cases[0].result("eager")) is None


def test_losing_and_winning_are_listed_alike(tmp_path):
    run = run_of(tmp_path)
    slower, undecided, faster = sheets.standing_sheets(run)
    assert len(slower.rows) + len(undecided.rows) + len(faster.rows) == len(run.cases)
    assert len(slower.rows) >= 2
    assert len(faster.rows) >= 2
    assert slower.columns == faster.columns
    assert all(float(row[3].text.rstrip("x")) < 1 for row in slower.rows)
    assert all(float(row[3].text.rstrip("x")) > 1 for row in faster.rows)
    counts = [(s.count("slower"), s.count("faster")) for s in summaries(run)]
    assert (sum(a for a, _ in counts), sum(b for _, b in counts)) == (len(slower.rows), len(faster.rows))


def test_who_was_not_timed_has_a_reason(tmp_path):
    rows = {row[0].text: [cell.text for cell in row] for row in sheets.absent_sheet(run_of(tmp_path)).rows}
    assert rows["triton"][1:5] == ["unavailable", "Triton kernels need a GPU", "20", "all"]
    assert rows["unfold"][1:4] == ["failed", "RuntimeError: out of memory", "1"]
    assert rows["compile"][1] == "refused"
    assert "layer stage 4: 256x16x16" in rows["compile"][4]


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


# Pictures


def luminance(colour):
    """Relative luminance by the definition of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_every_provider_can_be_seen_on_both_grounds_and_told_apart():
    known = [*theme.STYLES.values(), *theme.SPARE]
    for style in known:
        assert min(contrast(style.colour, t.ground) for t in theme.THEMES.values()) >= 3, style
    assert len({style.marker for style in known}) == len(known)
    assert len({style.colour for style in known}) == len(known)
    for t in theme.THEMES.values():
        assert contrast(t.ink, t.ground) >= 7
        assert contrast(t.faint, t.ground) >= 4.5


def test_unknown_providers_get_spare_styles_and_known_ones_keep_theirs():
    found = theme.styles(["mine", "eager", "yours"])
    assert found["eager"] == theme.STYLES["eager"]
    assert found["mine"] != found["yours"]
    assert theme.styles(["eager"])["eager"] == found["eager"]


def test_time_chart_shows_the_medians_of_the_file(tmp_path):
    charts, _ = drawing()
    content = bench_example.example()
    run = run_of(tmp_path, content)
    figure = charts.time_chart(run, run.conditions()[0], theme.LIGHT)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["layer, inference", "layer, training", "neck, inference", "neck, training"]
    drawn = {float(y) for line in figure.axes[0].lines for y in line.get_ydata()}
    cases = [c for c in content["cases"] if (c["kind"], c["pass"]) == ("layer", "inference")]
    for case in cases:
        for result in case["results"].values():
            if result["status"] == "ok":
                assert result["median_ms"] in drawn
    necks = {x for line in figure.axes[3].lines for x in line.get_xdata()}
    sizes = [sum(math.prod(stage) for stage in stages) for stages in bench_example.PYRAMIDS.values()]
    assert necks == set(sizes)


def test_one_size_is_in_sight(tmp_path):
    """Of one size an axis makes itself no width where rounding puts an interval's bar beside the point."""
    charts, _ = drawing()
    results = {"eager": timed(8.3, 8.0, 9.1), "unfold": timed(31.2, 30.0, 33.0)}
    stages = [[32, 64, 64], [64, 32, 32], [160, 16, 16], [256, 8, 8]]
    content = one_case(results, stages=stages, kind="neck")
    content["cases"].append(content["cases"][0] | {"pass": "training", "id": "another"})
    run = run_of(tmp_path, content)
    for axes in charts.time_chart(run, run.conditions()[0], theme.LIGHT).axes:
        low, high = axes.get_xlim()
        assert 1.5 * low < run.cases[0].elements < high / 1.5


def test_roofline_stays_below_roofs_that_were_measured(tmp_path):
    charts, _ = drawing()
    run = run_of(tmp_path)
    figure = charts.roofline_chart(run, run.conditions()[0], theme.LIGHT)
    roof = max(figure.axes[0].lines, key=lambda line: len(line.get_xdata()))
    x, y = roof.get_xdata(), roof.get_ydata()
    assert y.max() == pytest.approx(1e11)
    assert y[0] == pytest.approx(x[0] * 1e10)
    for changes in ({"roofs": None}, {"roofs": {**bench_example.example()["roofs"], "dtype": "bfloat16"}}):
        other = run_of(tmp_path, bench_example.example(**changes))
        assert charts.roofline_chart(other, other.conditions()[0], theme.LIGHT) is None


def test_memory_of_zero_bytes_is_drawn(tmp_path):
    charts, _ = drawing()
    results = {"eager": bench_example.result(1.0, peak=0), "unfold": bench_example.result(1.0, peak=2**20)}
    run = run_of(tmp_path, one_case(results))
    figure = charts.memory_chart(run, run.conditions()[0], theme.LIGHT)
    assert figure.axes[0].get_yscale() == "symlog"
    assert {0.0, 1.0} <= {float(y) for line in figure.axes[0].lines for y in line.get_ydata()}


def cells(figure):
    """Text and colour of the heat map's cells."""
    axes = figure.axes[0]
    colours = [patch.get_facecolor() for patch in axes.patches]
    return dict(zip((text.get_text() for text in axes.texts), colours, strict=True))


def test_heat_map_shows_losing_as_strongly_as_winning(tmp_path):
    charts, _ = drawing()
    content = one_case({"eager": timed(1, 0.99, 1.01), "unfold": timed(3, 2.9, 3.1)})
    losing = copy.deepcopy(content["cases"][0]) | {"id": "b", "name": "stage 2"}
    losing["results"] = {"eager": timed(3, 2.9, 3.1), "unfold": timed(1, 0.99, 1.01)}
    even = copy.deepcopy(losing) | {"id": "c", "name": "stage 3"}
    even["results"] = {"eager": timed(1, 0.9, 1.1), "unfold": timed(1, 0.9, 1.1)}
    gone = copy.deepcopy(losing) | {"id": "d", "name": "stage 4"}
    gone["results"]["eager"] = bench_example.no_result("refused", "wrong")
    content["cases"] += [losing, even, gone]
    run = run_of(tmp_path, content)
    found = cells(charts.speedup_chart(run, run.conditions()[0], theme.DARK))
    assert set(found) == {"3.00x", "0.33x", "1.00x ?", "refused"}
    win, lose, equal = found["3.00x"], found["0.33x"], found["1.00x ?"]
    assert win[2] > win[0]
    assert lose[0] > lose[2]
    assert min(equal[:3]) > 0.9
    assert math.dist(win[:3], equal[:3]) == pytest.approx(math.dist(lose[:3], equal[:3]), rel=0.35)
    assert found["refused"][3] == 0


def test_every_picture_is_the_same_in_another_process(tmp_path):
    _, plots = drawing()
    file = bench_example.write(tmp_path / "run.json", bench_example.small())
    run = read_run(file)
    stems = [stem for stem, _, _ in plots.pictures(run)]
    assert [stem.partition("-")[0] for stem in stems] == ["overview", "speedup", "time", "roofline", "memory"]
    code = (
        "import argparse; from sdn_triton.bench import plots; p = argparse.ArgumentParser(); plots.configure(p);"
        f"a = p.parse_args([{str(file)!r}, '--out', {str(tmp_path / 'out')!r}]); raise SystemExit(a.run(a))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {f"run-{stem}-{t}.{kind}" for stem in stems for t in ("light", "dark") for kind in ("svg", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {Path(line).name for line in done.stdout.splitlines()} == names
    for stem, chart, condition in plots.pictures(run):
        for kind in ("svg", "png"):
            drawn = plots.render(run, chart, condition, theme.DARK, kind)
            assert (tmp_path / "out" / f"run-{stem}-dark.{kind}").read_bytes() == drawn, stem
            assert b"2026" not in drawn[:2000]


def test_an_incomplete_run_says_so_in_its_pictures(tmp_path):
    _, plots = drawing()
    run = run_of(tmp_path, bench_example.example(complete=False))
    assert "INCOMPLETE" in plots.subtitle(run, plots.pictures(run)[0][1], run.conditions()[0])


def command(module, *arguments):
    parser = argparse.ArgumentParser()
    module.configure(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.run(args)


@pytest.mark.parametrize("name", ["plots", "page"])
def test_a_malformed_file_stops_the_command(tmp_path, capsys, name):
    _, plots = drawing()
    from sdn_triton.bench import page

    file = tmp_path / "bad.json"
    file.write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        command({"plots": plots, "page": page}[name], file, "--out", tmp_path / "x.html")
    assert stopped.value.code == 2
    assert f"{file}: schema is missing" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_plot_of_a_run_without_times(tmp_path, capsys):
    _, plots = drawing()
    file = bench_example.write(tmp_path / "run.json", bench_example.example(cases=[], complete=False))
    assert command(plots, file, "--out", tmp_path) == 1
    shown = capsys.readouterr().out
    assert "incomplete" in shown
    assert "nothing to draw" in shown


def test_missing_matplotlib_names_the_extra(tmp_path, capsys, monkeypatch):
    from sdn_triton.bench import plots

    found = plots.importlib.util.find_spec
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(SystemExit):
        command(plots, bench_example.write(tmp_path / "run.json"), "--out", tmp_path)
    assert "pip install 'sdn-triton[bench]'" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(tmp_path):
    _, plots = drawing()
    paths = [tmp_path / folder / "run.json" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        bench_example.write(path)
    runs = [read_run(path) for path in paths]
    assert plots.names(runs) == ["a-run", "b-run"]
    assert plots.names(runs[:1]) == ["run"]
    with pytest.raises(RunFileError, match="given twice"):
        plots.names([runs[0], runs[0]])


# The page


class Page(HTMLParser):
    """What a browser would see: open tags in balance, tables as rows of text, links and sources."""

    VOID = ("meta", "link", "br", "img", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.stack, self.tables, self.ids, self.references, self.text, self.pictures = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset") and v]
        if tag == "svg":
            self.pictures.append(values)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append([tag, values, ""])
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.stack and self.stack[-1] in ("td", "th"):
            self.tables[-1][-1][-1][2] += data


@pytest.fixture
def pages(tmp_path):
    drawing()
    pytest.importorskip("jinja2", reason="the page needs jinja2: the extra bench")
    from sdn_triton.bench import page

    return page


def test_page_is_self_contained_and_accessible(tmp_path, pages, capsys):
    file = bench_example.write(tmp_path / "run.json")
    assert command(pages, file, "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.md").read_text() == markdown.report([read_run(file)])
    assert len(capsys.readouterr().out.splitlines()) == 2
    text = (tmp_path / "page.html").read_text()
    found = Page(text)
    assert found.stack == []
    assert len(set(found.ids)) == len(found.ids)
    assert all(reference.startswith("#") for reference in found.references)
    inside = {reference[1:] for reference in found.references} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert inside <= set(found.ids)
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search("#01020[3]|#0[4]0506|#07080[9]", text)
    assert len(found.pictures) == 5
    assert all(p["role"] == "img" and len(p["aria-label"]) > 80 for p in found.pictures)
    for table in found.tables:
        assert all(tag == "th" and values["scope"] == "col" for tag, values, _ in table[0])
        for row in table[1:]:
            assert len(row) == len(table[0])
            assert row[0][0] == "th"
            assert row[0][1]["scope"] == "row"


def test_page_shows_every_result_with_its_memory(tmp_path, pages):
    content = bench_example.example()
    found = Page(pages.html([run_of(tmp_path, content)]))
    tables = [t for t in found.tables if "provider" in [c[2] for c in t[0]] and "peak [MiB]" in [c[2] for c in t[0]]]
    rows = [[cell[2] for cell in row] for table in tables for row in table[1:]]
    assert len(rows) == sum(len(case["results"]) for case in content["cases"])
    for case in content["cases"]:
        for provider, result in case["results"].items():
            shape = "x".join(map(str, case["stages"][0]))
            row = next(
                r for r in rows if r[2] == provider and r[1] == case["pass"] and shape in r[0] and case["name"] in r[0]
            )
            if result["status"] != "ok":
                assert row[3] == result["status"]
                continue
            assert float(row[3]) == pytest.approx(result["median_ms"], rel=0.006)
            low, high = map(float, row[4].split(" to "))
            assert (low, high) == pytest.approx(result["interval_ms"], rel=0.006)
            assert float(row[8]) == pytest.approx(result["peak_bytes"] / 2**20, rel=0.06)
    assert any("<b>" in text for text in found.text)  # text of the file, not a tag


def test_page_of_partial_empty_and_several_runs(tmp_path, pages):
    cut = read_run(bench_example.write(tmp_path / "cut.json", bench_example.example(complete=False)))
    empty = read_run(bench_example.write(tmp_path / "empty.json", bench_example.example(cases=[], roofs=None)))
    found = Page(pages.html([cut, empty]))
    assert len(set(found.ids)) == len(found.ids)
    text = " ".join("".join(found.text).split())
    assert "INCOMPLETE" in text
    assert "This run has no cases." in text
    assert "There is nothing to draw." in text
    assert {"#run-cut", "#run-empty"} <= set(found.references)


@pytest.mark.parametrize("name", ["page.txt", "no-folder/page.html"])
def test_page_that_cannot_be_written(tmp_path, pages, capsys, name):
    with pytest.raises(SystemExit):
        command(pages, bench_example.write(tmp_path / "run.json"), "--out", tmp_path / name)
    assert "must be a file *.html" in capsys.readouterr().err
