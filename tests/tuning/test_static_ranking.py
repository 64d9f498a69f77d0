"""`sdn-triton tune --static`: which candidates are looked at in the time there is, and for which shape."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("triton", reason="triton is not installed: it comes with the extra interpreter")

from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.tuner import static_ranking
from sdn_triton.bench.tuner.trials import units_of
from sdn_triton.cli import main
from sdn_triton.tuning.shapes import LayerShape
from sdn_triton.tuning.spaces import candidates

SHAPE = LayerShape.parse("n=3,c=256,o=128,h=40,w=56")
UNITS = {unit.kernel: unit for unit in units_of([SHAPE], TARGETS["sm_90"])}


def row(ratio: float) -> dict[str, object]:
    numbers = dict.fromkeys(("registers", "spill_bytes", "shared_bytes", "blocks_per_sm", "hazards"), 0)
    return {"error": None, "fits": True, "ratio_is": "simulated", "ratio": ratio, "issued_per_element": 3.0, **numbers}


@pytest.fixture
def looked_at(monkeypatch):
    """The cases, none of which is compiled; larger tiles are predicted to be faster."""
    cases = []

    def examine(case, with_range):
        cases.append(case)
        return row(1 / case.config().block_o)

    monkeypatch.setattr(static_ranking, "examine", examine)
    return cases


@pytest.mark.parametrize("kernel", UNITS)
def test_what_is_compiled_is_the_shape_that_was_asked_for(kernel):
    config = candidates(kernel, UNITS[kernel].work, TARGETS["sm_90"])[0]
    case = static_ranking.case_of(UNITS[kernel], "sm_90", config)
    assert (case.images, case.rows, case.columns, case.channels, case.outputs) == (3, 40, 56, 256, 128)
    assert case.config() == config.__class__(**{**vars(config), "source": case.config().source})


def test_one_of_each_tile_comes_first():
    found = candidates("difference_forward", UNITS["difference_forward"].work, TARGETS["sm_90"])
    ordered = static_ranking.varied(found)
    assert sorted(map(str, ordered)) == sorted(map(str, found))
    assert ordered[0] is found[0]
    assert ordered[0].source == "heuristic"
    tiles = [(c.block_p, c.block_c, c.block_o, c.pairs) for c in ordered]
    assert len(set(tiles)) > 20
    assert len(set(tiles[: len(set(tiles))])) == len(set(tiles))


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 1), (600.0, None)], ids=["no time", "time for all"])
def test_the_heuristic_is_looked_at_in_any_case_and_the_rest_while_there_is_time(seconds, count, looked_at):
    unit = UNITS["difference_weight_gradient"]
    with ThreadPoolExecutor() as executor:
        ranked, total = static_ranking.rank(unit, "sm_90", seconds, executor)
    assert len(ranked) == len(looked_at) == (count or total)
    assert "heuristic" in {one.config.source for one in ranked}
    ratios = [one.row["ratio"] for one in ranked]
    assert ratios == sorted(ratios)


@pytest.mark.parametrize(
    "text",
    ["c=8,h=9,w=9,kernel=5x5", "c=8,h=9,w=9,stride=2x2", "c=8,h=9,w=9,groups=2", "op=fusion,c=8,cg=4,h=9,w=9"],
)
def test_what_is_not_predicted_is_refused_with_the_reason(text, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    shape = LayerShape.parse(text)
    why = static_ranking.why_not_static("sm_90", shape)
    assert str(shape) in why
    assert why.rpartition("has another ")[2] in ("kernel", "stride", "groups", "cg")


@pytest.mark.parametrize(
    "text", ["c=8,h=8,w=8", "c=8,h=8,w=8,groups=8", "op=block,c=8,h=9,w=9", "op=fusion,c=8,h=9,w=9"]
)
def test_what_is_predicted_is_taken(text, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert static_ranking.why_not_static("sm_90", LayerShape.parse(text)) is None


def test_the_command_explains_its_columns_once_and_says_what_is_left(looked_at, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(static_ranking, "workers", ThreadPoolExecutor)
    assert main(["tune", "--static", "sm_90", "--shape", str(SHAPE), "--budget", "0.001"]) == 0
    shown = capsys.readouterr().out
    for column in ("x conv", "issued", "regs", "spill", "shared", "hazards"):
        assert shown.count(f"{column}: ") == 1, column
    assert f"1 of {len(candidates('difference_forward', UNITS['difference_forward'].work, TARGETS['sm_90']))}" in shown
