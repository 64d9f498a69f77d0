"""The map of docs/quality-map.md: its cells and arms, what its tables and picture say, and that they are up to date."""

import re
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from support.places import ROOT

from sdn_triton.bench.quality import __main__ as command
from sdn_triton.bench.quality import map_plan, map_summary, summary
from sdn_triton.bench.quality.experiment import Job, Results
from sdn_triton.bench.quality.map_plan import (
    ARMS,
    BASE_POINT,
    CONTROLLED,
    CONTROLS,
    FULL_MAP,
    QUICK_MAP,
    Cell,
    Map,
    describe_cells,
    missing,
)
from sdn_triton.bench.quality.map_summary import COMPARISONS, MapResults
from sdn_triton.bench.quality.network import CHANNELS, VARIANTS, Encoder, build_network, live_parameters
from sdn_triton.bench.quality.scenes import CLASSES, edge_statistics, make_scenes
from sdn_triton.bench.quality.training import Setting, run, training_scenes

CPU = torch.device("cpu")
BASE = Cell(())


# The plan


def test_every_seed_has_every_arm_of_every_cell():
    jobs = list(FULL_MAP.jobs())
    assert len(set(jobs)) == len(jobs)
    for seed in range(1, FULL_MAP.seeds + 1):
        assert {(cell, variant) for cell, variant, own in jobs if own == seed} == {
            (cell, variant)
            for cell in FULL_MAP.cells()
            for variant in (*ARMS, *(CONTROLS if cell in CONTROLLED else ()))
        }
    assert [seed for _, _, seed in jobs] == sorted(seed for _, _, seed in jobs)
    assert Counter(variant for cell, variant, _ in jobs if cell not in CONTROLLED) == {
        arm: FULL_MAP.seeds * (len(FULL_MAP.cells()) - len(CONTROLLED)) for arm in ARMS
    }


@pytest.mark.parametrize("plan", [FULL_MAP, QUICK_MAP], ids=["full", "quick"])
def test_cells_differ_from_the_base_in_what_they_are_named_after(plan):
    base, cells = asdict(plan.base), plan.cells()
    assert len({plan.setting(cell) for cell in cells}) == len({cell.name for cell in cells}) == len(cells) == 20
    for cell in cells:
        own = asdict(plan.setting(cell))
        changed = {factor: value for factor, value in own.items() if value != base[factor]}
        assert changed == dict(cell.changes)
        assert all(type(value) is type(base[factor]) for factor, value in own.items())
    assert set(CONTROLLED) <= set(cells)
    assert plan.plane()[1.0, 0.0] == BASE
    assert (0.0, 0.0) not in plan.plane()
    for line in plan.lines().values():
        assert BASE in line.values()
        assert len(set(line.values())) == len(line) > 1


def test_the_page_says_what_is_planned():
    page = map_summary.PAGE.read_text()
    settings = {
        "blur": "blur, deviation in pixels",
        "noise": "noise, deviation",
        "stride": "stride of the encoder's deepest stage",
        "training_scenes": "training scenes",
        "steps": "steps",
    }
    for factor, line in FULL_MAP.lines().items():
        base = asdict(BASE_POINT)[factor]
        values = ", ".join(f"**{value:g}**" if value == base else f"{value:g}" for value in line)
        assert f"| {settings[factor]} | {values}" in page
    plane = " x ".join(", ".join(f"{value:g}" for value in values) for values in map_plan.PLANE.values())
    assert f"| plane: `inside` x `between` | {plane}," in page
    cells, factors = len(FULL_MAP.cells()), len(map_summary.FACTORS)
    assert f"{len(COMPARISONS) * cells} comparisons ({cells} cells, {len(COMPARISONS)} arms)" in page
    assert f"The latter are {len(COMPARISONS) * factors} comparisons" in page
    assert f"same {BASE_POINT.test_scenes} scenes" in page
    assert f"for {BASE_POINT.steps} steps of {BASE_POINT.batch} scenes" in page


# Arms and scenes


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_arms_have_equal_size_whatever_the_stride(stride):
    sizes = {v.name: live_parameters(build_network(v, CLASSES, 0, stride)) for v in (*ARMS, *CONTROLS)}
    assert sizes.pop("none") < 0.5 * sizes["sdn"]
    assert max(sizes.values()) < 1.05 * min(sizes.values())
    assert sizes["sdn"] == live_parameters(build_network(VARIANTS["sdn"], CLASSES, 0))


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_the_stride_is_the_deepest_stage_s(stride):
    features = Encoder(stride=stride)(torch.zeros(2, 1, 48, 48))
    assert [48 // feature.shape[-1] for feature in features] == [stride // 4, stride // 2, stride]
    assert [feature.shape[1] for feature in features] == list(CHANNELS)


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="stride must be one of 4, 8, 16, got 32"):
        Encoder(stride=32)


def test_strengths_of_edges_are_as_asked():
    """The ratio of edges between classes to those inside grows with the one strength and falls with the other."""
    plane = {
        (inside, between): make_scenes(64, 48, 5, inside=inside, between=between)
        for inside in (0.0, 0.5, 1.0, 2.0)
        for between in (0.0, 0.5, 1.0)
    }
    assert all(torch.equal(own.labels, plane[1.0, 0.0].labels) for own in plane.values())
    ratio = {place: edge_statistics(scenes)["neighbour_ratio"] for place, scenes in plane.items()}
    assert ratio[0.0, 0.0] == pytest.approx(1, abs=0.02)  # noise alone
    for inside in (0.0, 0.5, 1.0, 2.0):
        assert ratio[inside, 0.0] < ratio[inside, 0.5] < ratio[inside, 1.0]
    for between in (0.5, 1.0):
        assert ratio[0.0, between] > ratio[0.5, between] > ratio[1.0, between] > ratio[2.0, between]


def test_brightness_alone_is_the_class_s():
    scenes = make_scenes(64, 48, 5, inside=0.0, between=0.5, blur=0.0, noise=0.0)
    levels = [scenes.images[:, 0][scenes.labels == c].unique() for c in range(CLASSES)]
    assert [len(own) for own in levels] == [1] * CLASSES
    levels = torch.cat(levels)
    assert float(levels.mean()) == pytest.approx(0, abs=1e-6)
    assert float(levels.std(correction=0)) == pytest.approx(0.5)
    twice = make_scenes(4, 48, 5, inside=2.0, blur=0.0, noise=0.0).images
    assert torch.equal(twice, 2 * make_scenes(4, 48, 5, blur=0.0, noise=0.0).images)


def test_a_setting_makes_its_scenes():
    setting = replace(BASE_POINT, training_scenes=4, inside=2.0, between=0.5, blur=0.0, noise=0.1)
    own = training_scenes(setting, 3)
    expected = make_scenes(4, 48, (3, 0), inside=2.0, between=0.5, blur=0.0, noise=0.1)
    assert torch.equal(own.images, expected.images)


# Runs


TINY = Map(Setting(size=48, training_scenes=16, test_scenes=4, steps=2, batch=2, stride=16), seeds=1)


@pytest.fixture
def short(monkeypatch):
    """Two cells, with controls in one of them, after two steps."""
    monkeypatch.setattr(command, "QUICK_MAP", TINY)
    monkeypatch.setattr(map_plan, "PLANE", {"inside": (1.0,), "between": (0.0,)})
    monkeypatch.setattr(map_plan, "LINES", {"stride": (8, 16)})
    monkeypatch.setattr(
        Map, "lines", lambda self: {"stride": {value: self.cell({"stride": value}) for value in (8, 16)}}
    )
    monkeypatch.setattr(map_plan, "CONTROLLED", (BASE,))
    execute = command.execute
    monkeypatch.setattr(command, "execute", lambda jobs, device, workers, maps: execute(jobs, device, 0, maps))
    monkeypatch.setattr(command, "tables", lambda results: (None, f"{len(results['runs'])} runs"))


def test_a_map_is_carried_on(short, tmp_path, capsys):
    path = tmp_path / "map.json"
    arguments = ["--map", "--quick", "--device", "cpu", "--json", str(path)]
    assert command.main(arguments) == 0
    assert "10 runs" in capsys.readouterr().out
    content = summary.load(path)
    assert Counter(r["cell"] for r in content["runs"]) == {"base": 6, "stride 8": 4}
    assert set(content["cells"]) == {"base", "stride 8"}
    assert not path.with_suffix(".npz").exists()
    (found,) = (r for r in content["runs"] if (r["cell"], r["variant"]) == ("stride 8", "sdn"))
    (base,) = (r for r in content["runs"] if (r["cell"], r["variant"]) == ("base", "sdn"))
    assert base["losses"] != found["losses"]
    again, _ = run(VARIANTS["sdn"], replace(TINY.base, stride=8), 1, CPU, with_maps=False)
    assert again["figures"] == pytest.approx(found["figures"], nan_ok=True)

    content["runs"].remove(found)
    path.write_text(summary.json.dumps(content))
    results = Results(path, TINY.base, CPU, ["test"])
    describe_cells(TINY, results)
    assert list(missing(TINY, results)) == [("stride 8", Job(VARIANTS["sdn"], replace(TINY.base, stride=8), 1))]
    assert command.main(arguments) == 0
    assert len(summary.load(path)["runs"]) == 10
    with pytest.raises(SystemExit):
        command.main(["--quick", "--device", "cpu", "--json", str(path)])
    assert "another setting or device" in capsys.readouterr().err


# What is said of it


def content_of(value, seeds=(1, 2, 3), cells=None):
    """A file whose metrics are ``value(cell, arm's name, seed)``."""
    runs = [
        {
            "cell": cell.name,
            "variant": arm.name,
            "seed": seed,
            "cpu_seconds": 1.0,
            "figures": {metric: value(cell, arm.name, seed) for metric in map_summary.METRICS},
        }
        for cell, arm, seed in Map(BASE_POINT, seeds=max(seeds)).jobs()
        if seed in seeds and (cells is None or cell in cells)
    ]
    return {
        "command": "test",
        "setting": asdict(BASE_POINT),
        "sessions": [{"device": {"name": "test"}, "torch": "0", "git": {"revision": "0"}}],
        "cells": {cell.name: {"neighbour_ratio": 1.0} for cell in FULL_MAP.cells()},
        "runs": runs,
    }


def gain(cell, arm, seed):
    """SDN is better by 1 to 3 points and by ten times as much with twice the texture; vanilla scatters around 0."""
    sdn = 0.01 * seed * (10 if dict(cell.changes).get("inside") == 2 else 1)
    return {"none": 0.5, "sdn": 0.5 + sdn, "conv": 0.5 + sdn + 0.01 * (seed - 2), "cdc": 0.6 + sdn}.get(arm, 0.5)


def test_differences_of_a_map_by_hand():
    results = MapResults(content_of(gain))
    none, conv, cdc = COMPARISONS
    one = results.difference([BASE], none)
    assert one.mean == pytest.approx(0.02)
    assert one.half_width == pytest.approx(4.303 * 0.01 / 3**0.5)
    assert (one.verdict, one.seeds) == ("undecided", 3)
    assert results.difference([BASE], conv).mean == pytest.approx(0)
    assert results.difference([BASE], cdc).mean == pytest.approx(-0.1)
    assert results.difference([BASE], cdc).verdict == "worse"
    cells = results.plan.cells()
    doubled = sum("inside 2" in cell.name for cell in cells)
    assert results.difference(cells, none).mean == pytest.approx(0.02 * (20 - doubled + 10 * doubled) / 20)


def test_changes_along_factors_by_hand():
    results = MapResults(content_of(gain))
    none = COMPARISONS[0]
    high, low = results.ends("inside")
    assert {cell.name for cell in high} == {"inside 2", "inside 2, between 0.5", "inside 2, between 1"}
    assert {cell.name for cell in low} == {"inside 0.5", "inside 0.5, between 0.5", "inside 0.5, between 1"}
    assert results.difference(high, none, less=low).mean == pytest.approx(0.2 - 0.02)
    high, low = results.ends("between")
    assert {cell.name for cell in high} == {"inside 0.5, between 1", "between 1", "inside 2, between 1"}
    assert {cell.name for cell in low} == {"inside 0.5", "base", "inside 2"}
    for factor, (high, low) in {"noise": ("noise 1.2", "noise 0.2"), "stride": ("base", "stride 4")}.items():
        assert [[cell.name for cell in cells] for cells in results.ends(factor)] == [[high], [low]]


def test_tables_say_it():
    text = map_summary.markdown(content_of(gain))
    assert "| SDN - central difference block, mIoU | 0 | 20 | 0 | **-10.00 ± 0.00** |" in text
    assert "| SDN - vanilla 3x3 block, mIoU | 0 | 0 | 20 | -0.00 ± 2.48 |" in text or "| +0.00 ± 2.48 |" in text
    assert "| edges inside classes, 0.5 to 2 |" in text
    assert "| stride of the encoder, 4 to 16 |" in text
    assert f"{2 * 86} of 430 runs of the plan are missing" in text
    assert "are missing" not in map_summary.markdown(content_of(gain, seeds=(1, 2, 3, 4, 5)))
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_tables_of_a_map_cut_short():
    """Cells have their own number of seeds; the mean over all cells waits until all have one in common."""
    content = content_of(gain, seeds=(1,), cells=[BASE])
    text = map_summary.markdown(content)
    assert re.search(r"\| base \| 1.00 \| 1 \| 50.00 \| \+1.00 \| \+1.00 \| -10.00 \|", text)
    assert "| inside 2 | 1.00 | 0 |  |  |  |  |" in text
    assert MapResults(content).difference(FULL_MAP.cells(), COMPARISONS[0]) is None


def test_the_picture_frames_what_is_decided():
    pytest.importorskip("matplotlib", reason="draws with matplotlib, of the extra bench")
    from sdn_triton.bench.quality import figures, map_figures

    figure = map_figures.picture(MapResults(content_of(gain)))
    panels = [axes for axes in figure.get_axes() if axes.images]
    assert [axes.get_title() for axes in panels] == [comparison.title for comparison in COMPARISONS]
    assert [len(axes.patches) for axes in panels] == [0, 0, 11]
    (text,) = (text for text in panels[0].texts if text.get_position() == (3, 1))  # inside 2, between 0.5
    assert text.get_text() == "+20.00"
    assert panels[0].images[0].get_array()[1, 3] == pytest.approx(20)
    assert len([axes for axes in figure.get_axes() if axes.get_title() in map_summary.FACTORS.values()]) == 5
    figures.pyplot().close(figure)


def test_a_picture_of_a_map_cut_short(tmp_path):
    pytest.importorskip("matplotlib", reason="draws with matplotlib, of the extra bench")
    path = tmp_path / "map.json"
    path.write_text(summary.json.dumps(content_of(gain, seeds=(1,), cells=[BASE])))
    assert command.main(["--figures", str(path), "--device", "cpu"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"map.json", "map.png", "map.svg"}


def test_the_page_is_up_to_date():
    """If this fails: python -m sdn_triton.bench.quality --docs bench/results/quality/map-cpu.json"""
    page = map_summary.PAGE.read_text()
    found = summary.load(map_summary.FIGURES)
    assert command.tables(found) == (map_summary.PAGE, map_summary.markdown(found))
    assert page == summary.with_tables(page, map_summary.markdown(found))


def test_what_is_said_in_short_was_measured():
    tables = map_summary.PAGE.read_text().partition(summary.MARKS[0])[2]
    for page in (map_summary.PAGE, ROOT / "README.md"):
        text = page.read_text()
        for comparison, mean in zip(COMPARISONS, ("+0.81 ± 0.19", "+0.51 ± 0.21", "-0.03 ± 0.40"), strict=True):
            assert mean.lstrip("+") in text
            assert re.search(rf"\| {comparison.title}, boundary IoU .*\| \**{re.escape(mean)}", tables)


def test_every_picture_of_the_page_is_there():
    names = re.findall(r"!\[.*?\]\((.*?)\)", map_summary.PAGE.read_text())
    assert names
    assert all((map_summary.PAGE.parent / name).is_file() for name in names)
