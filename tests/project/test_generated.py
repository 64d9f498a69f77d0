"""The documents say what bench/results says, and ``make report`` is the way to get there."""

import json
import re
import shutil

import pytest
from support import bench_example
from support.places import RESULTS, ROOT

from sdn_triton.bench.documents import __main__ as generated
from sdn_triton.bench.documents import results_list
from sdn_triton.bench.documents import tables as document_tables


def test_the_documents_are_not_stale():
    found = generated.stale(ROOT)
    assert found == [], "run `make report`:\n" + "\n".join(found)


def test_eager_forward_table_against_the_file():
    """Figures of the table, found here by other means than there, and every miss."""
    text = document_tables.eager_forward(RESULTS, "")
    rows = {}
    for line in text.splitlines():
        if line.startswith("| ") and "x" in line and "C = O" not in line:
            name, *figures = [cell.strip(" *") for cell in line.strip("|").split("|")]
            rows[name.strip()] = figures
    content = json.loads((RESULTS / "cpu-amd-epyc" / "eager-forward.json").read_text())
    assert 4 * len(rows) == len(content["shapes"]) == 100
    for name, figures in rows.items():
        channels, size = int(name.split(",")[0]), int(name.split("x")[1])
        four = [r for r in content["shapes"] if (r["shape"]["channels"], r["shape"]["size"]) == (channels, size)]
        floor = sorted(r["ratios"]["forward / conv2d"]["median"] for r in four)
        assert abs(float(figures[0]) - (floor[1] + floor[2]) / 2) <= 0.00501
        unfold = [r["ratios"]["both / unfold"]["median"] for r in four if "both / unfold" in r["ratios"]]
        assert figures[4] == "-" if not unfold else abs(float(figures[4]) - sorted(unfold)[-1]) <= 0.00501
    plain = " ".join(text.split())
    assert all(miss in plain for miss in content["misses"])


@pytest.fixture
def tree(tmp_path):
    """A repository of documents and the committed results without runs, not stale."""
    for page in generated.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    for name in ("cpu-amd-epyc/eager-forward.json", "cpu-amd-epyc/host-cost.json", "cpu-amd-epyc/row-sharded.json"):
        path = tmp_path / "bench/results" / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(RESULTS / name, path)
    shutil.copytree(RESULTS / "machine-code", tmp_path / "bench/results/machine-code")
    shutil.copy(RESULTS / "proofs.json", tmp_path / "bench/results/proofs.json")
    pytest.importorskip("matplotlib", reason="make report needs matplotlib: the extra bench")
    pytest.importorskip("jinja2", reason="make report needs jinja2: the extra bench")
    generated.write(tmp_path)
    assert generated.stale(tmp_path) == []
    return tmp_path


def test_a_figure_that_changes_makes_its_documents_stale(tree):
    path = tree / "bench/results/cpu-amd-epyc/eager-forward.json"
    content = json.loads(path.read_text())
    content["medians"]["both / conv2d"] = 99.125
    content["misses"] = ["1x2x3x3 contiguous: forward / unfold 98.25"]
    content["shapes"][0]["ratios"]["forward / unfold"]["median"] = 97.125
    path.write_text(json.dumps(content))
    assert {line.partition(":")[0] for line in generated.stale(tree)} == {"README.md", "docs/benchmarks.md"}
    generated.write(tree)
    assert generated.stale(tree) == []
    page, readme = (" ".join((tree / name).read_text().split()) for name in ("docs/benchmarks.md", "README.md"))
    assert "99.12 for forward and backward, **missed**" in page
    assert "**missed** by 1: 1x2x3x3 contiguous: forward / unfold 98.25" in page
    assert "| 97.12 |" in page
    assert "99.12 times with the backward" in readme
    assert "it is slower, beyond noise, in 1." in readme


def test_the_yardstick_follows_its_file(tree):
    path = tree / "bench/results/machine-code/yardstick.json"
    content = json.loads(path.read_text())
    content["cells"][0]["ours"]["forward"]["ratio"] = 99.125
    path.write_text(json.dumps(content))
    assert "docs/benchmarks.md: not what bench/results gives" in generated.stale(tree)
    generated.write(tree)
    assert "99.12 (" in (tree / "docs/benchmarks.md").read_text()


def test_an_edit_by_hand_is_found_and_undone(tree):
    page = tree / "README.md"
    page.write_text(page.read_text().replace("beyond noise", "beyond  noise", 1))
    assert generated.stale(tree) == ["README.md: not what bench/results gives"]
    generated.write(tree)
    assert generated.stale(tree) == []


@pytest.mark.long
def test_a_new_run_gets_tables_pictures_and_a_place_in_the_readme(tree, capsys):
    file = bench_example.write(tree / "bench/results/cpu-amd-epyc/run.json", bench_example.small())
    assert any("pictures" in line and "missing" in line for line in generated.stale(tree))
    generated.write(tree)
    folder = file.parent
    for drawn in folder.glob("pictures/*.svg"):  # as another processor may round
        drawn.write_text(re.sub(r"\d+\.\d{6}", lambda number: f"{float(number[0]) + 2e-6:.6f}", drawn.read_text()))
    assert generated.stale(tree) == []
    assert (folder / "run.md").is_file()
    assert (tree / "build/benchmarks.html").is_file()
    readme = (tree / "README.md").read_text()
    for theme in ("light", "dark"):
        assert f"bench/results/cpu-amd-epyc/pictures/run-overview-{theme}.svg" in readme
    assert "of 2 cases 1 slower, 0 undecided, 1 faster" in readme
    assert "(bench/results/cpu-amd-epyc/run.md)" in readme
    for page in (tree / "README.md", folder / "run.md"):
        for link in generated.re.findall(r'(?:srcset|src)="([^"]+)"|\]\((bench/[^)]+)\)', page.read_text()):
            if page.name == "run.md" or "run" in "".join(link):
                assert (page.parent / "".join(link)).is_file(), link
    assert "2 cases" in (tree / "bench/results/README.md").read_text()
    # The figures change: everything of theirs is stale, pictures too, even where nothing can draw.
    content = bench_example.small(complete=False)
    bench_example.write(file, content)
    found = generated.stale(tree)
    assert {"README.md", "bench/results/cpu-amd-epyc/run.md"} <= {line.partition(":")[0] for line in found}
    assert sum("pictures/" in line for line in found) == 10
    # The run goes: so do its pictures.
    file.unlink()
    assert sum("no run has this picture" in line for line in generated.stale(tree)) == 10
    generated.write(tree)
    assert generated.stale(tree) == []
    assert not list(folder.glob("pictures/*"))
    assert "removed" in capsys.readouterr().out


@pytest.mark.long
def test_pictures_are_checked_without_matplotlib_and_with_another_version(tree, monkeypatch):
    file = bench_example.write(tree / "bench/results/cpu-amd-epyc/run.json", bench_example.small())
    generated.write(tree)
    drawn = sorted(tree.rglob("pictures/*.svg"))
    texts_of = {path: path.read_text() for path in drawn}
    for path, text in texts_of.items():
        assert text.count("matplotlib ") >= 1
        path.write_text(text.replace("matplotlib ", "matplotlib 0.", 1).replace("<path", "<path  ", 1))
    assert generated.stale(tree) == []  # another version, the same figures
    drawn[0].write_text(texts_of[drawn[0]].replace("<path", "<path  ", 1))
    assert [line.partition(":")[0] for line in generated.stale(tree)] == [str(drawn[0].relative_to(tree))]
    drawn[0].write_text(texts_of[drawn[0]])
    monkeypatch.setattr(generated, "can_draw", lambda: False)
    assert generated.stale(tree) == []
    content = json.loads(file.read_text())
    content["cases"][0]["results"]["eager"]["peak_bytes"] += 1
    bench_example.write(file, content)
    assert sum("drawn from other figures" in line for line in generated.stale(tree)) == len(drawn)


PICTURE = """<title>matplotlib 3.11.2</title>
<path id="m28525699ca" d="M 43.088521 272.229463 L 0 -3.5" style="stroke: #1f2328; stroke-width: 0.8"/>
<path id="pc6f0a2b4d1" d="M 1 2 z"/>
<use xlink:href="#m28525699ca" x="271.999999" clip-path="url(#pc6f0a2b4d1)"/>
"""


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("272.229463", "272.229462", True),
        ("271.999999", "272", True),
        ("m28525699ca", "m0123456789", True),
        ("272.229463", "272.24", False),
        ("L 0 -3.5", "L 0 3.5", False),
        ("L 0 -3.5", "L 0 -3.5 L 1 1", False),
        ("#1f2328", "#1f2329", False),
        ("3.11.2", "3.11.3", False),
        ('href="#m28525699ca"', 'href="#pc6f0a2b4d1"', False),
    ],
)
def test_pictures_are_alike_up_to_the_last_digits_of_their_coordinates(old, new, alike):
    assert old in PICTURE
    assert generated.look_alike(PICTURE, PICTURE.replace(old, new)) is alike


@pytest.mark.parametrize(
    "text",
    [
        "<!-- make report: nonsense -->\n<!-- end of make report -->",
        "<!-- make report: runs -->\n",
        "x\n<!-- end of make report -->",
    ],
    ids=["unknown name", "no end", "no beginning"],
)
def test_a_broken_block_is_named(tmp_path, text):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md"):
        generated.filled(page, {"runs": lambda page: ""})


def test_what_stands_between_the_blocks_stays(tmp_path):
    page = tmp_path / "README.md"
    block = "<!-- make report: runs -->\nold\n<!-- end of make report -->"
    page.write_text(f"before\n{block}\nbetween {{}} \\1\n{block}\nafter\n")
    new = "<!-- make report: runs -->\n\nnew \\1\n\n<!-- end of make report -->"
    expected = f"before\n{new}\nbetween {{}} \\1\n{new}\nafter\n"
    assert generated.filled(page, {"runs": lambda page: "new \\1"}) == expected


def test_every_result_is_described():
    table = results_list.table_of_files(RESULTS)
    assert "not described" not in table
    for path in RESULTS.rglob("*.json"):
        assert f"]({path.relative_to(RESULTS).as_posix()})" in table


def test_no_result_was_made_up():
    """The tests' imaginary device must not find its way into the results."""
    for path in RESULTS.rglob("*"):
        assert not path.is_file() or b"Imaginary" not in path.read_bytes(), path
