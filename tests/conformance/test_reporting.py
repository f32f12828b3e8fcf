"""The reports of a run: JSON with its schema, a self-contained page, JUnit XML, plots, differences."""

import itertools
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree as ET

import jsonschema
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cli import main
from setadam_conformance.reporting import diff, from_json, print_diff, print_tables, to_json, write_html, write_junit
from setadam_conformance.reporting.failures import trace_lines
from setadam_conformance.reporting.plots import histogram, scatter
from setadam_conformance.reporting.summary import short_names
from setadam_conformance.running.backends import known
from setadam_conformance.running.results import FAILING, Backend, Cell, Diagnosis, Run, Stage, Trace, TraceRow

SCHEMA = json.loads(files("setadam_conformance.reporting").joinpath("report.schema.json").read_text(encoding="utf-8"))


class Off(NumPySpec):
    """θ is off by one in a million, and NaN where it would be 0."""

    name = "off <by> one & more"

    def step(self, *args):
        params, states = super().step(*args)
        return [np.where(p == 0, np.nan, p * np.float32(1 + 1e-6)).astype(p.dtype) for p in params], states


@pytest.fixture(scope="module")
def run():
    """Cells of real runs, and one cell of each other status."""
    from setadam_conformance.properties import PROPERTIES
    from setadam_conformance.running.backends import Source
    from setadam_conformance.running.plan import PROFILES, plan
    from setadam_conformance.running.runner import check

    cells, backends = [], []
    for adapter in (NumPySpec(), Off()):
        source = Source(adapter.name, adapter.framework, "none:none")
        names, dtypes = ("one-step", "step-counts", "sign"), ("float32", "float64")
        plans = plan({source: adapter.capabilities}, profile=PROFILES["quick"], properties=names, dtypes=dtypes)
        cells += [check(PROPERTIES[cell.property], adapter, cell) for cell in plans]
        claims = {"dtypes": ["float32", "float64"], "reduction": "pairwise"}
        backends.append(Backend(adapter.name, adapter.framework, "cpu", {"numpy": np.__version__}, claims))
    backends.append(Backend("absent", "absent", missing="pip install absent"))
    for i, status in enumerate(("skip", "xfail", "xpass", "lapsed", "error", "vacuous")):
        cells.append(Cell(f"p{i}", "spec:numpy", "float32", status=status, reason=f"because of <{status}> \x00"))
    cells.append(Cell("stale", "*", "*", status="lapsed", reason="the expectation matches nothing"))
    started = "2030-01-01T00:00:00+00:00"
    return Run("quick", 3, (1, 2), started, 1.5, {"python": "3.11"}, backends, cells, exit_code=1)


def other(run, **changes):
    changed = deepcopy(run)
    changed.__dict__.update(changes)
    return changed


def test_json_matches_its_schema_and_is_read_back_unchanged(run):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    run = deepcopy(run)
    failure = next(cell.failure for cell in run.cells if cell.failure)
    failure.got, failure.ratio = np.nan, np.inf
    trace = Trace("a step", [[0]], [TraceRow("w̃", "w - τ min w", [1.0], [np.nan], np.inf)])
    failure.diagnosis = Diagnosis("cause", ["θ is wrong"], trace, failure.case, "run()", "a line")
    text = json.dumps(to_json(run), allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)
    again = from_json(json.loads(text))
    assert to_json(again) == to_json(run)
    failed = [cell for cell in again.cells if cell.failure]
    assert {cell.backend for cell in failed} == {Off.name}
    assert failed[0].failure.ratio == np.inf
    assert np.isnan(failed[0].failure.got)
    passed = next(cell for cell in again.cells if cell.property == "one-step")
    assert isinstance(passed.stages["m"], Stage)
    assert 0 < passed.stages["param"].median < passed.stages["param"].ratio <= 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(schema="setadam-report/1"),
        lambda data: data.update(new=1),
        lambda data: data["cells"][0].update(status="maybe"),
        lambda data: data["cells"][0].pop("examples"),
        lambda data: data["cells"][0].update(ratio="NaN"),
        lambda data: data["cells"][0]["stages"].update(w={"ratio": 0, "median": 0}),
        lambda data: data.update(exit_code=2),
        lambda data: data.update(shard=[0, 1]),
    ],
)
def test_the_schema_refuses_other_data(run, spoil):
    data = to_json(run)
    spoil(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


@pytest.mark.parametrize("data", [None, [], {}, {"schema": "setadam-report/1"}, {"schema": "setadam-report/2"}])
def test_other_data_is_not_read_as_a_report(data):
    with pytest.raises(ValueError):
        from_json(data)


class Page(HTMLParser):
    """Collects all tags with their attributes, and checks that they are closed in order."""

    VOID = frozenset({"meta", "rect", "circle", "line", "path", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def page_of(run, tmp_path):
    write_html(run, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_self_contained(run, tmp_path):
    page = page_of(run, tmp_path)
    assert page.open == []
    assert {name for name, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"} == set()
    for _, attributes in page.tags:
        assert not {"src", "srcset", "action", "data"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://|//[a-z]", re.sub(r"<pre>.*?</pre>", "", source, flags=re.DOTALL))


def test_the_page_has_all_results(run, tmp_path):
    text = " ".join(page_of(run, tmp_path).text)
    for said in ("does not conform", "shard 1 of 2", "seed 3", Off.name, "pip install absent", "because of <xpass>"):
        assert said in text
    shown = [cell.failure for cell in run.cells if cell.failure]
    assert shown
    for failure in shown:
        assert failure.snippet in text
        assert failure.message in text
    assert "nterrupted" not in text
    assert "Interrupted" in " ".join(page_of(other(run, complete=False, exit_code=4), tmp_path).text)


def squares(page):
    """The squares of the picture, by property and backend, which their tooltips begin with."""
    found = {}
    for tag, attributes in page.tags:
        if tag == "a" and "--b:" in attributes.get("style", ""):
            found[attributes["title"].partition(": ")[0]] = attributes
    return found


def test_the_verdict_comes_first_and_then_the_picture(run, tmp_path):
    page = page_of(run, tmp_path)
    tags = [tag for tag, _ in page.tags]
    after = page.tags[tags.index("body") + 1 :]
    assert [tag for tag, _ in after[:2]] == ["h1", "p"]
    assert [attributes.get("class") for _, attributes in after[2:4]] == ["wide", "picture"]
    kinds = [attributes.get("class") for _, attributes in page.tags]
    assert kinds.index("picture") < kinds.index("legend") < tags.index("table") < tags.index("nav")
    assert f"Does not conform: {Off.name}, spec:numpy, *" in page.text


def test_all_links_lead_to_one_place(run, tmp_path):
    page = page_of(run, tmp_path)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in page.tags if "href" in attributes}
    assert targets <= set(ids)
    assert {"failures", "summary", "backends", "distributions", "environment"} <= targets


def test_what_fails_has_a_letter_and_a_place_among_the_failures(run, tmp_path):
    page = page_of(run, tmp_path)
    order = [attributes.get("id") for _, attributes in page.tags]
    found = squares(page)
    shown = {backend.name for backend in run.backends}
    bad = [cell for cell in run.cells if cell.status in {*FAILING, "vacuous"} and cell.backend in shown]
    assert {cell.status for cell in bad} == {*FAILING, "vacuous"}
    for cell in bad:
        square = found[f"{cell.property} on {cell.backend}"]
        assert square["class"] == "bad"
        assert order.index("failures") < order.index(square["href"][1:]) < order.index("summary")
    assert set("EFPLV") <= set(page.text)


def test_failures_of_one_cause_are_told_once(run, tmp_path):
    trace = Trace("a step", [[0]], [TraceRow("θ", "θ - η", [1.0], [2.0], 9.5, parts=True)])
    found = Diagnosis("cause", ["θ is <wrong>", "look at τ"], trace, snippet="run()", request="pipe this")
    told = other(run, exit_code=1)
    for cell in told.cells:
        if cell.failure:
            cell.failure.diagnosis = found
    failing = [cell for cell in told.cells if cell.failure]
    assert len(failing) > 1
    text = page_of(told, tmp_path).text
    for said in ("θ is <wrong>", "look at τ", "run()", "pipe this"):
        assert text.count(said) == 1
    assert text.count("\n".join(trace_lines(trace))) == 1
    for cell in failing:  # folded
        assert f"{cell.property} in {cell.dtype}" in text


def test_columns_of_a_trace_are_aligned():
    rows = [TraceRow("w̃", "w - τ min w", [1.0, 2.0], [1.5, 2.5]), TraceRow("θ", "θ - η", [1.0, 2.0], [3.0, 4.0], 9.5)]
    _, head, *lines = trace_lines(Trace("a step", [[0], [1]], rows))
    assert len(lines) == 4
    assert {cell_len(line.partition("  9.5")[0]) for line in lines} == {cell_len(head)}


def test_squares_are_coloured_by_the_worst_ratio_of_all_dtypes(tmp_path):
    def cell(prop, dtype, ratio, status="pass"):
        return Cell(prop, "b", dtype, status=status, ratio=ratio, examples=1)

    cells = [
        cell("low", "float32", 0.1),
        cell("edge", "float32", 0.25),
        cell("high", "float32", 0.1),
        cell("high", "float64", 0.97),
        cell("exact", "float32", None),
        cell("mixed", "float32", 0.5),
        cell("mixed", "float64", 30.0, "fail"),
        cell("excused", "float64", None, "skip"),
    ]
    backends = [Backend("b", "b"), Backend("c", "c")]
    cells.append(Cell("low", "c", "float32", status="pass", ratio=0.6))
    found = squares(page_of(Run("quick", 0, (1, 1), "", 0.0, {}, backends, cells, exit_code=1), tmp_path))
    assert {name: square["class"] for name, square in found.items()} == {
        "low on b": "level0",
        "edge on b": "level0",
        "high on b": "level3",
        "exact on b": "exact",
        "mixed on b": "bad",
        "excused on b": "calm",
        "low on c": "level2",
    }
    assert "float64 0.970, float32 0.100" in found["high on b"]["title"]


def test_names_are_shown_as_they_are_and_never_as_markup(run, tmp_path):
    names = ['cmd:"><script>alert(1)</script>', "cmd:a 'b' & <b>", "@%41#", "[bold]x[/bold]"]
    hostile = other(run, backends=[Backend(name, "x") for name in names])
    hostile.cells = [Cell("<i>p", name, "float32", status="pass") for name in names]
    hostile.cells += [Cell("<i>q", name, "float32", status="fail", reason="<img src=x>") for name in names]
    page = page_of(hostile, tmp_path)
    assert page.open == []
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    for said in (*names, "<i>q", "<img src=x>"):
        assert said in page.text
    assert {f"<i>q on {name}" for name in names} <= set(squares(page))
    targets = {attributes["href"][1:] for _, attributes in page.tags if "href" in attributes}
    assert targets <= {attributes["id"] for _, attributes in page.tags if "id" in attributes}


def test_the_page_has_its_plots(run, tmp_path):
    page = page_of(run, tmp_path)
    titles = [attributes["aria-label"] for name, attributes in page.tags if name == "svg"]
    for dtype in ("float32", "float64"):
        assert f"error/bound in {dtype}" in titles
    for prop in ("one-step", "step-counts"):
        assert f"error/bound: {prop}" in titles
    assert any("against d" in title for title in titles)
    assert any("against t" in title for title in titles)
    points = sum(len(cell.sample) for cell in run.cells)
    assert page.count("circle") == 2 * points  # a run this small is not thinned
    assert page.count("rect") > 20


def test_plots_place_their_values():
    drawn = Page(histogram("h", {"θ": [0.5, 0.5, 2.0, 1e-9]}, "x"))
    assert next(t for name, t in drawn.tags if name == "rect")["height"] == "88.0"  # one of two, of 176
    assert drawn.count("rect") == 3
    right = {}
    for d in (1, 1000):
        circle = next(
            t for name, t in Page(scatter("s", {"float32": [(d, 1.0), (1000, 1.0)]}, "d")).tags if name == "circle"
        )
        right[d] = float(circle["cx"])
    assert right[1] < right[1000]
    line = next(t for name, t in Page(scatter("s", {"a": [(1, 1.0)]}, "d")).tags if name == "line")
    circle = next(t for name, t in Page(scatter("s", {"a": [(1, 1.0)]}, "d")).tags if name == "circle")
    assert line["y1"] == circle["cy"]  # the bound is at 1
    assert Page(histogram("none", {}, "x")).count("rect") == 0


def test_junit_counts_add_up(run, tmp_path):
    path = tmp_path / "junit.xml"
    write_junit(run, path)
    root = ET.parse(path).getroot()
    assert root.tag == "testsuites"
    cases = root.findall("testsuite/testcase")
    assert len(cases) == len(run.cells) + 1  # the backend that is missing
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    for suite in root:
        for count, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
            assert int(suite.get(count)) == len(suite.findall(tag))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    bad = sum(cell.status in FAILING or cell.status == "vacuous" for cell in run.cells)
    assert len(root.findall(".//failure")) + len(root.findall(".//error")) == bad
    assert all(entry.get("message") for entry in root.iter() if entry.tag in ("failure", "error", "skipped"))
    write_junit(other(run, complete=False), path)
    assert any("interrupted" in error.get("message") for error in ET.parse(path).getroot().iter("error"))


def test_the_terminal_shows_failures_and_missing_backends(run):
    text = " ".join(printed(run).split())
    failure = next(cell.failure for cell in run.cells if cell.failure)
    for said in (
        "one-step",
        Off.name,
        " ".join(failure.message.split()),
        "did not run here: pip install absent",
        "xpass",
        "lapsed",
    ):
        assert said in text
    assert "does not conform" in text


def printed(run):
    """What is printed of a run in 80 columns."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(run, console)
    return console.export_text()


def test_tables_fit_80_columns(run):
    long = [
        'cmd:"node some/long/path/to/a/program.mjs --flag"',
        'cmd:"node some/long/path/of/a/program.mjs --flag"',
        "setadam_experiments.backends.torch:TorchTwoPassesWithALongName",
        "torch:two-passes",
    ]
    statuses = {"bfloat16": "pass", "float16": "vacuous", "float32": "pass", "float64": "pass"}
    cells = [
        Cell("dtype-shape-and-bits-are-kept", name, dtype, status=status, examples=123456, ratio=0.999)
        for name in long
        for dtype, status in statuses.items()
    ]
    text = printed(other(run, backends=[Backend(name, "x") for name in long], cells=cells))
    rules = [line for line in text.splitlines() if line.startswith("──")]
    assert len(rules) == len(long) + 1
    lines = text.splitlines()
    for i, rule in enumerate(lines):
        if rule.startswith("──"):
            table = itertools.takewhile(str.strip, lines[i - 1 :])
            assert all(len(line.rstrip()) <= 80 for line in table)
    assert "…" not in "".join(line for line in lines if "123456" in line and line.startswith("dtype-"))
    for name in long[:3]:
        assert sum(line.endswith(f" is {name}") for line in lines) == 1
    short = [line.partition(": worst error/bound")[0] for line in lines if ": worst error/bound" in line]
    assert len(set(short)) == len(long)
    assert short[3] == "torch:two-passes"


def test_a_log_file_gets_80_columns(capsys):
    assert main(["run", "--backend", "spec:numpy", "--property", "sign", "--profile", "quick", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith("──")]
    assert len(rules) == 2
    for i in rules:
        assert all(len(line) <= 80 for line in itertools.takewhile(str.strip, lines[i - 1 :]))


def test_names_of_registered_backends_are_not_shortened():
    names = list(known())
    assert len(names) > 5
    assert short_names(names, 20) == dict(zip(names, names, strict=True))


def test_short_names_are_different():
    names = [f"{'a' * 20}{i}{'b' * 20}" for i in range(12)]
    short = short_names([*names, "x"], 12)
    assert short["x"] == "x"
    assert len(set(short.values())) == 13
    assert max(map(len, short.values())) == 12


def changes(a, b):
    return [(change.what, change.worse) for change in diff(a, b)]


def test_a_report_does_not_differ_from_itself(run):
    assert diff(run, run) == []
    console = Console(record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    assert not print_diff([], console)
    assert "no difference" in console.export_text()


def test_diff_reports_verdicts_growth_and_missing_cells(run):
    worse = deepcopy(run)
    passed = [cell for cell in worse.cells if cell.status == "pass"]
    passed[0].status = "fail"
    passed[1].ratio *= 3
    gone = passed[2]
    worse.cells.remove(gone)
    worse.cells.append(Cell("new", "spec:numpy", "float32", status="pass"))
    found = changes(run, worse)
    named = [f"{c.property} on {c.backend} in {c.dtype}" for c in passed]
    assert (f"{named[0]} was pass, is fail", True) in found
    assert any(what.startswith(f"{named[1]}: worst error/bound grew") and is_worse for what, is_worse in found)
    assert (f"{named[2]} is no longer run", True) in found
    assert ("new on spec:numpy in float32 is new: pass", False) in found
    assert len(found) == 4
    better = [is_worse for what, is_worse in changes(worse, run) if "was fail, is pass" in what]
    assert better == [False]


def test_small_errors_may_grow(run):
    """A ratio of 0.01 may become 0.05: other examples have the same effect."""
    small = deepcopy(run)
    small.cells[0].ratio = 0.01
    grown = deepcopy(small)
    grown.cells[0].ratio = 0.05
    assert diff(small, grown) == []


def test_diff_reports_settings_versions_and_partial_runs(run):
    later = other(run, seed=4, complete=False, environment={"python": "3.12", "numpy": "2.4"})
    later.backends[0].missing = "no such device"
    assert changes(run, later) == [
        ("seed was 3, is 4", False),
        ("numpy was absent, is 2.4", False),
        ("python was 3.11, is 3.12", False),
        ("the run was interrupted", True),
        ("spec:numpy did not run: no such device", True),
    ]
