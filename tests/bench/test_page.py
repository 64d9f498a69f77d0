"""The page is self-contained, accessible, and shows every result of the file."""

import re
from html.parser import HTMLParser

import pytest
from support import bench_example
from support.bench_example import command, drawing, run_of

from sdn_triton.bench.reports import markdown
from sdn_triton.bench.runs.saved_runs import read_run


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
    from sdn_triton.bench.commands import report

    return report


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
