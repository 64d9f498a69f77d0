"""The pictures show what the file says, can be read on both grounds, and are the same in every process."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
from support import bench_example
from support.bench_example import command, drawing, one_case, run_of, timed
from support.places import ROOT

from sdn_triton.bench.reports import theme
from sdn_triton.bench.runs.saved_runs import RunFileError, read_run


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
    _, plot = drawing()
    file = bench_example.write(tmp_path / "run.json", bench_example.small())
    run = read_run(file)
    stems = [stem for stem, _, _ in plot.pictures(run)]
    assert [stem.partition("-")[0] for stem in stems] == ["overview", "speedup", "time", "roofline", "memory"]
    code = (
        "import argparse; from sdn_triton.bench.commands import plot; p = argparse.ArgumentParser(); plot.configure(p);"
        f"a = p.parse_args([{str(file)!r}, '--out', {str(tmp_path / 'out')!r}]); raise SystemExit(a.run(a))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {f"run-{stem}-{t}.{kind}" for stem in stems for t in ("light", "dark") for kind in ("svg", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {Path(line).name for line in done.stdout.splitlines()} == names
    for stem, chart, condition in plot.pictures(run):
        for kind in ("svg", "png"):
            drawn = plot.render(run, chart, condition, theme.DARK, kind)
            assert (tmp_path / "out" / f"run-{stem}-dark.{kind}").read_bytes() == drawn, stem
            assert b"2026" not in drawn[:2000]


def test_an_incomplete_run_says_so_in_its_pictures(tmp_path):
    _, plot = drawing()
    run = run_of(tmp_path, bench_example.example(complete=False))
    assert "INCOMPLETE" in plot.subtitle(run, plot.pictures(run)[0][1], run.conditions()[0])


@pytest.mark.parametrize("name", ["plots", "page"])
def test_a_malformed_file_stops_the_command(tmp_path, capsys, name):
    _, plot = drawing()
    from sdn_triton.bench.commands import report

    file = tmp_path / "bad.json"
    file.write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        command({"plots": plot, "page": report}[name], file, "--out", tmp_path / "x.html")
    assert stopped.value.code == 2
    assert f"{file}: schema is missing" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_plot_of_a_run_without_times(tmp_path, capsys):
    _, plot = drawing()
    file = bench_example.write(tmp_path / "run.json", bench_example.example(cases=[], complete=False))
    assert command(plot, file, "--out", tmp_path) == 1
    shown = capsys.readouterr().out
    assert "incomplete" in shown
    assert "nothing to draw" in shown


def test_a_run_without_times_after_one_with_some(tmp_path, capsys):
    _, plot = drawing()
    drawn = bench_example.write(tmp_path / "drawn.json", bench_example.small())
    empty = bench_example.write(tmp_path / "empty.json", bench_example.example(cases=[]))
    assert command(plot, drawn, empty, "--format", "svg", "--theme", "light", "--out", tmp_path) == 0
    assert f"{empty}: no case has a time, there is nothing to draw" in capsys.readouterr().out


def test_missing_matplotlib_names_the_extra(tmp_path, capsys, monkeypatch):
    from sdn_triton.bench.commands import plot

    found = plot.importlib.util.find_spec
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(SystemExit):
        command(plot, bench_example.write(tmp_path / "run.json"), "--out", tmp_path)
    assert "pip install '.[bench]'" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(tmp_path):
    _, plot = drawing()
    paths = [tmp_path / folder / "run.json" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        bench_example.write(path)
    runs = [read_run(path) for path in paths]
    assert plot.names(runs) == ["a-run", "b-run"]
    assert plot.names(runs[:1]) == ["run"]
    with pytest.raises(RunFileError, match="given twice"):
        plot.names([runs[0], runs[0]])
