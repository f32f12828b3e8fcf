"""The page to play with, docs/play.md, in a headless Chromium: it shows the numbers that `setadam_core.trace` gives.

From file://, since the page needs no server. The reader's hands are keys and a mouse, and what is read are its tables.
"""

import base64
import importlib.util
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import chromium
import numpy as np
import pytest

from setadam_core import Hyperparameters, State, Trace, trace
from setadam_core.layers import check_layer
from setadam_core.show import demo, statistics
from setadam_core.show.operations import stepsizes_by_operation

DOCS = Path(__file__).parents[2] / "docs"
PLAY = DOCS / "_static/play"
UNIT = 1e-10  # of the second moments of the layer of two
# Some twenty roundings, and w - τ min w loses up to 1/(1-τ) = 100 of their size: 20 · 100 · 2⁻⁵³ = 2e-13.
RTOL = 1e-12


def script(name: str) -> ModuleType:
    """A script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


conf = script("conf")

needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.Browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page without Sphinx's frame: what docs/play.md and docs/conf.py put into it."""
    (place,) = re.findall(r'^<div id="play">.*</div>$', (DOCS / "play.md").read_text(encoding="utf-8"), re.MULTILINE)
    style, code = (PLAY / "play.css").as_uri(), conf.as_one_script(PLAY / "page.js")
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>play</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="{style}">
<body>{place}<script type="module">{code}</script></body></html>"""
    path = tmp_path_factory.mktemp("page") / "play.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: chromium.Browser, address: str) -> Iterator[chromium.Browser]:
    """The page with the settings that it starts with. Nothing may be written to its console."""
    browser.messages.clear()
    browser.resize(1200, 900)
    browser.open(address)
    yield browser
    assert browser.messages == []


TABLES = """
Object.fromEntries([...document.querySelectorAll("#play table")].map((table) => [
  table.caption.textContent,
  Object.fromEntries([...table.tBodies[0].rows].map((row) => [
    row.cells[0].textContent,
    [...row.querySelectorAll("data")].map((x) => [x.value, x.textContent]),
  ])),
]))
"""


def tables(page: chromium.Browser) -> dict[str, dict[str, list[float]]]:
    """The tables by caption and row. Their numbers are written as those of the demonstration are."""
    found = {}
    for caption, rows in page.run(TABLES).items():
        for value, text in chain.from_iterable(rows.values()):
            assert text == demo.number(float(value))
        found[caption] = {name: [float(value) for value, _ in row] for name, row in rows.items()}
    return found


def shown(page: chromium.Browser) -> dict[str, Any]:
    """The settings that the controls show: what a slider's text says, and which switches are on."""
    sliders = page.run(
        '[...document.querySelectorAll("#play .slider:not([hidden]) input")].map((x) => '
        '[x.name, x.getAttribute("aria-valuetext")])'
    )
    boxes = page.run('[...document.querySelectorAll("#play [type=checkbox]")].map((x) => [x.name, x.checked])')
    layer = page.run('document.querySelector("#play [type=radio]:checked").value')
    return {"layer": layer, **{name: float(text) for name, text in sliders}, **dict(boxes)}


def recorded(step: int) -> Any:
    """v of the 2304 weights after this step, out of recorded.js: bfloat16 are the upper halves of float32."""
    (text,) = re.findall(rf'^  {step}: "(.*)",$', (PLAY / "recorded.js").read_text(encoding="utf-8"), re.MULTILINE)
    halves = np.frombuffer(base64.b64decode(text), "<u2").astype("<u4")
    return (halves << 16).view("<f4").astype(float)


def arguments(state: dict[str, Any]) -> tuple[Any, Any, State, Hyperparameters]:
    """What the page's settings are for `trace`. Where only v is known, m and g are 0, and so is v's change."""
    hp = Hyperparameters(
        eps=state["eps"],
        tau=state["tau"] if state["T"] else 0,
        cos_power=state["n"] if state["S"] else 0,
        eps_inside_sqrt=state["E"],
    )
    c = state["scale"]
    if state["layer"] == "five":
        before = State(c * demo.STATE.m, c * c * demo.STATE.v, int(state["t"]) - 1)
        return demo.PARAM, c * demo.GRAD, before, hp
    if state["layer"] == "two":
        v, t = np.array([state["v1"], state["v2"]]) * UNIT, int(state["t"])
    else:
        v, t = recorded(int(state["step"])), int(state["step"])
    zero = np.zeros_like(v)
    return zero, zero, State(zero, c * c * v / hp.beta2, t - 1), hp


def rows_of(now: Trace) -> dict[str, Any]:
    return {
        **{"g": now.g, "m": now.m, "v": now.v, "γ": now.gamma, "γv": now.v_scaled, "w": now.w, "min w": now.w_min},
        **{"w̃": now.w_shifted, "1/w̃": now.stepsize, "q": now.update, "θ - q": now.param},
    }


def check(page: chromium.Browser) -> dict[str, Any]:
    """All numbers of the page are those that `trace` gives for the settings that its controls show."""
    state, found = shown(page), tables(page)
    asked = arguments(state)
    now = trace(*asked)
    if state["layer"] == "weights":
        rows = found["The step, over the layer"]
        assert list(rows) == ["v", "γv", "w", "w̃", "1/w̃", "γ", "min w"]
        expected = {
            name: x if name in ("γ", "min w") else np.array([x.min(), x.mean(), x.max()])
            for name, x in rows_of(now).items()
            if name in rows
        }
    else:
        rows = found["The step, coordinate by coordinate"]
        expected = {name: x for name, x in rows_of(now).items() if name in rows}
        assert len(rows) == (11 if state["layer"] == "five" else 7)
    for name, row in rows.items():
        # θ - q is a difference: its error is that of θ and q, however small it is.
        atol = RTOL * float(abs(now.update).max() + 1) if name == "θ - q" else 0
        np.testing.assert_allclose(row, expected[name].ravel(), rtol=RTOL, atol=atol, err_msg=f"{name}, {state}")
    hp = asked[-1]
    floor = math.sqrt(hp.eps) if hp.eps_inside_sqrt else hp.eps
    limits = [1 / hp.eps, 1 / hp.eps, 1 / floor, 1 / ((1 - hp.tau) * floor)]
    stages = stepsizes_by_operation(*asked).values()
    after = found["Stepsizes after each operation"].values()
    for stage, limit, row in zip(stages, limits, after, strict=True):
        low, high = stage.min(), stage.max()
        np.testing.assert_allclose(row, [low, stage.mean(), high, high / low, limit], rtol=RTOL, err_msg=str(state))
    layer = check_layer(*asked[:2], *asked[2], hp, None)
    share = statistics.on_floor(now.v, now.gamma, now.t, layer, hp).mean()
    values = page.run('[...document.querySelectorAll("#play dd data")].map((x) => Number(x.value))')
    expected_values = [now.gamma.item(), now.w_min.item(), now.stepsize.max() / now.stepsize.min(), share]
    np.testing.assert_allclose(values, expected_values, rtol=RTOL, err_msg=str(state))
    return state


@needs_chromium
def test_starts_as_the_demonstration_does(page: chromium.Browser) -> None:
    state = check(page)
    assert state == {"layer": "five", "S": True, "E": True, "T": True, "eps": 1e-8, "tau": 0.5, "n": 2, "scale": 1} | {
        "t": demo.STATE.t + 1
    }


@needs_chromium
def test_moving_each_slider_by_its_keys(page: chromium.Browser) -> None:
    after = {"eps": 1e-7, "tau": 0.53, "n": 3.5, "scale": 10, "t": 100}
    for name, value in after.items():
        page.run(f'document.querySelector("#play [name={name}]").focus()')
        page.press("ArrowRight", 3)
        assert check(page)[name] == value
    assert page.run("location.hash") == "#eps=1e-7&tau=0.53&n=3.5&scale=10&t=100"
    page.press("ArrowLeft", 6)
    assert check(page)["t"] == 7


@needs_chromium
def test_switching_operations_off_by_a_key(page: chromium.Browser) -> None:
    for off in (["E"], ["E", "T"], ["S", "E", "T"]):
        page.run(f'document.querySelector("#play [name={off[0]}]").focus()')
        if len(off) == 2:
            page.run('document.querySelector("#play [name=T]").focus()')
        page.press(" ")
        state = check(page)
        assert [name for name in "SET" if not state[name]] == sorted(off, key="SET".index)
        labels = page.run('[...document.querySelectorAll("#play .off .strong")].map((x) => x.textContent)')
        assert labels == [f"{name} is off" for name in sorted(off, key="SET".index)]
    assert page.run("location.hash") == "#S=0&E=0&T=0"
    ratios = [row[3] for row in tables(page)["Stepsizes after each operation"].values()]
    assert ratios == [ratios[0]] * 4  # Adam's


SETTINGS = (
    "#eps=1e-16",
    "#eps=1&tau=0",
    "#tau=0.99&n=0.5&t=1",
    "#E=0&tau=0.9&scale=1e-3",
    "#S=0&scale=1e6&t=100000",
    "#layer=two&v1=0&v2=4&T=0",
    "#layer=two&v1=0&v2=0",
    "#layer=two&n=8&scale=50&t=1",
    "#layer=weights",
    "#layer=weights&step=1&eps=1e-10",
    "#layer=weights&step=400&E=0",
    "#layer=weights&step=60&scale=1e-3&tau=0.75&n=1",
)


@needs_chromium
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_address_has_the_settings(page: chromium.Browser, address: str, settings: str) -> None:
    """Also where it is changed while the page is open. What is asked for in it is what is shown."""
    page.run(f"location.hash = {settings!r}; new Promise((r) => addEventListener('hashchange', r, {{once: true}}))")
    changed = check(page)
    page.open(address + settings)
    assert check(page) == changed
    for name, text in re.findall(r"(\w+)=([\w.-]+)", settings):
        assert changed[name] == (text if name == "layer" else float(text)), name


@needs_chromium
def test_an_address_that_makes_no_sense_is_read_as_far_as_it_does(page: chromium.Browser, address: str) -> None:
    start = shown(page)
    page.open(address + "#eps=banana&tau=&T=2&layer=nine&constructor=1&t=NaN&n")
    assert check(page) == start
    page.open(address + "#eps=3e-9&tau=7&t=-5")
    assert check(page) == start | {"eps": 2e-9, "tau": 0.99, "t": 1}
    page.run('document.querySelector("#play button").click()')
    assert check(page) == start
    assert page.run("location.hash") == ""


@needs_chromium
def test_an_anchor_of_the_page_is_no_setting(page: chromium.Browser) -> None:
    page.run('document.querySelector("#play [name=E]").click()')
    page.run("location.hash = '#try'; new Promise((r) => addEventListener('hashchange', r, {once: true}))")
    assert not check(page)["E"]


@needs_chromium
def test_dragging_v_by_mouse_and_keys(page: chromium.Browser, address: str) -> None:
    page.open(f"{address}#layer=two")
    box = page.run(
        "(({x, y, width}) => ({x, y, width}))(document.querySelector('#play .plane').getBoundingClientRect())"
    )

    def place(v1: float, v2: float) -> tuple[float, float]:
        """Of these second moments, by where the picture has its square."""
        unit = box["width"] / 230
        return box["x"] + unit * (30 + 45 * v1), box["y"] + unit * (202 - 45 * v2)

    page.drag(place(1, 3), place(2, 3), place(2, 2))
    state = check(page)
    assert (state["v1"], state["v2"]) == (2, 2)
    assert tables(page)["The step, coordinate by coordinate"]["γ"] == [1]
    page.drag(place(2, 2), place(4.5, -1))  # beyond the square
    state = check(page)
    assert (state["v1"], state["v2"]) == (4, 0)
    np.testing.assert_allclose(tables(page)["The step, coordinate by coordinate"]["γ"], 1 / 2)
    page.run('document.querySelector("#play .plane").focus()')
    page.press("ArrowUp", 3)
    page.press("ArrowLeft")
    state = check(page)
    assert (state["v1"], state["v2"]) == (3.9, 0.3)
    assert page.run("document.activeElement.classList.contains('plane')")
    assert page.run('document.querySelector("#play .plane").getAttribute("aria-valuetext")') == "v₁ 3.9, v₂ 0.3, 40.6°"
    assert page.run("location.hash") == "#layer=two&v1=3.9&v2=0.3"


@needs_chromium
def test_e_stops_mattering_over_training(page: chromium.Browser, address: str) -> None:
    """The table of all recorded steps is what the slider shows at each, and says what docs/play.md says."""
    page.open(f"{address}#layer=weights&step=1")
    rows = tables(page)["Over training, with these settings"]
    page.run('document.querySelector("#play [name=step]").focus()')
    for i, (name, (gamma, _, *ratios)) in enumerate(rows.items()):
        page.press("ArrowRight", min(i, 1))
        assert check(page)["step"] == int(name)
        now = tables(page)
        assert now["The step, over the layer"]["γ"] == [gamma]
        assert [row[3] for row in now["Stepsizes after each operation"].values()] == ratios
    embedded = {int(name): row[4] / row[2] for name, row in rows.items()}  # the ratio after E in units of Adam's
    assert embedded[10] < 0.1
    assert embedded[200] > 2 / 3
    share = {int(name): row[1] for name, row in rows.items()}
    assert share[10] == 1
    assert share[200] < 0.01


@needs_chromium
def test_what_docs_play_says_of_its_links(page: chromium.Browser, address: str) -> None:
    """Each opens the settings that it names, and the ratios are about those that are given."""
    links = re.findall(r'<a href="(#[^"]+)">', (DOCS / "play.md").read_text(encoding="utf-8"))
    ratios = {}
    for link in [unescape(link) for link in links]:
        page.open(address + link)
        state = check(page)
        for name, text in re.findall(r"(\w+)=([\w.-]+)", link):
            assert state[name] == (text if name == "layer" else float(text)), link
        ratios[link] = [row[3] for row in tables(page)["Stepsizes after each operation"].values()]
    five = ratios["#layer=five"]
    assert [round(five[0]), round(five[3])] == [15, 3]
    no_e = ratios["#layer=five&E=0"]
    # The least √v̂ of the five is 1.6e-5, and with γ = 0.485 no root is below 1.1e-5. So ε = 1e-8, added to a root, is
    # less than 1e-3 of it. T at most doubles that.
    np.testing.assert_allclose(no_e[1], no_e[0], rtol=1e-3)
    assert no_e[3] > 1.9 * no_e[1]
    np.testing.assert_allclose(ratios["#layer=five&eps=1e-16"], no_e, rtol=2e-3)
    # v̂ is at most 6e-8, here times 1e-6: √(v̂ + ε) is within v̂/2ε = 3e-6 of √ε, and T at most doubles that.
    np.testing.assert_allclose(ratios["#layer=five&scale=1e-3"][2:], 1, rtol=6e-6)
    np.testing.assert_allclose(ratios["#layer=five&scale=1e-3&eps=1e-14"][2:], five[2:], rtol=RTOL)
    assert ratios["#layer=weights&step=200&eps=1e-6"][2] < ratios["#layer=weights&step=200"][2] / 5


@needs_chromium
def test_bars_hold_every_weight(page: chromium.Browser, address: str) -> None:
    page.open(f"{address}#layer=weights&step=40")
    rows = tables(page)["How many stepsizes are in each bar"]
    edges = [float(name.removeprefix("from ")) for name in rows]
    np.testing.assert_allclose(np.diff(np.log10(edges)) * 10, np.round(np.diff(np.log10(edges)) * 10), atol=2e-3)
    counts = np.array(list(rows.values()))
    assert list(counts.sum(axis=0)) == [2304] * 4
    for column, stage in zip(counts.T, stepsizes_by_operation(*arguments(shown(page))).values(), strict=True):
        bins = np.floor(10 * np.log10(stage)).astype(int)
        assert [n for n in column if n] == list(np.unique(bins, return_counts=True)[1])
    heights = page.run('[...document.querySelectorAll("#play .bar")].map((x) => Number(x.getAttribute("height")))')
    assert len(heights) == np.count_nonzero(counts)


@needs_chromium
def test_dots_are_where_their_stepsizes_are(page: chromium.Browser) -> None:
    found = page.run(
        '[...document.querySelectorAll("#play .picture .dot")].map((x) => '
        '[Number(x.textContent), Number(x.firstChild.getAttribute("cx"))])'
    )
    stages = list(stepsizes_by_operation(*arguments(shown(page))).values())
    assert len(found) == 4 * 5
    logs = [math.log10(stages[i // 5][number - 1]) for i, (number, _) in enumerate(found)]
    places = [x for _, x in found]
    slope, start = np.polyfit(logs, places, 1)
    assert slope > 0
    np.testing.assert_allclose(np.polyval([slope, start], logs), places, atol=1e-6)  # pixels


@needs_chromium
@pytest.mark.parametrize("settings", ["", "#layer=two", "#layer=weights", "#eps=1e-20&scale=1e-6"])
@pytest.mark.parametrize("width", [360, 390, 1200])
def test_nothing_is_wider_than_the_window(page: chromium.Browser, address: str, width: int, settings: str) -> None:
    page.resize(width, 800)
    page.open(address + settings)
    assert page.run("document.documentElement.scrollWidth") <= width
    picture = page.run("document.querySelector('#play .picture svg').getBoundingClientRect().width")
    assert width / 2 < picture < width
    page.resize(width - 40, 800)  # and it follows when the window changes
    page.run("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
    assert page.run("document.documentElement.scrollWidth") <= width - 40


@needs_chromium
def test_every_control_has_a_name_and_is_reached_by_tab(page: chromium.Browser, address: str) -> None:
    page.open(f"{address}#layer=two")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("slider", "checkbox", "radio", "button")
    names = [node["name"]["value"] for node in nodes if node["role"]["value"] in roles]
    assert len(names) == 3 + 3 + 7 + 1 + 1  # layers, switches, sliders, the plane, the button
    assert all(names)
    assert len(set(names)) == len(names)
    reached = []
    for _ in range(30):
        page.press("Tab")
        reached.append(page.run("document.activeElement.name || document.activeElement.className.baseVal || ''"))
    assert {"layer", *"SET", "eps", "tau", "n", "scale", "t", "v1", "v2", "plane"} <= set(reached)


def test_the_script_is_whole_and_short() -> None:
    code = conf.as_one_script(PLAY / "page.js")
    assert not re.search(r"^(import|export)\b", code, re.MULTILINE)
    assert "</script" not in code
    for path in PLAY.glob("*.js"):
        assert code.count(conf.IMPORT.sub("", path.read_text(encoding="utf-8")).splitlines()[0]) == 1, path.name
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < (120 if path.name == "step.js" else 250)
        assert path.name == "recorded.js" or max(map(len, lines)) <= 120, path.name


def test_sphinx_puts_the_script_into_the_page(tmp_path: Path) -> None:
    """The real conf.py, and of the pages only this one. `make docs` installs Sphinx."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    shutil.copytree(DOCS / "_static", tmp_path / "docs/_static")
    for name in ("conf.py", "play.md"):
        shutil.copy(DOCS / name, tmp_path / "docs")
    (tmp_path / "docs/index.md").write_text("# index\n\n```{toctree}\nplay\n```\n", encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(tmp_path / "docs"), str(tmp_path / "site")]
    subprocess.run(command, check=True, capture_output=True)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    code = conf.as_one_script(PLAY / "page.js")
    assert f'<script type="module">{code}</script>' in pages["play"]
    assert "play/play.css" in pages["play"]
    assert "play/play.css" not in pages["index"]
    if chromium.PROGRAM:
        (tmp_path / "chromium").mkdir()
        with chromium.Browser(tmp_path / "chromium") as page:
            page.open((tmp_path / "site/play.html").as_uri())
            check(page)
            assert page.messages == []


def test_layers_are_those_of_the_demonstration_and_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails: make figures. The first steps are taken again; later ones differ between machines."""
    for package in ("matplotlib", "sklearn", "torch"):
        pytest.importorskip(package)
    import torch

    figures = script("figures")
    maker = script("recorded")
    kept = (PLAY / "recorded.js").read_text(encoding="utf-8")
    empty = maker.source({})
    assert kept.startswith(empty[: empty.index("export const WEIGHTS")])
    assert tuple(map(int, re.findall(r"^  (\d+): ", kept, re.MULTILINE))) == figures.RECORDED
    monkeypatch.setattr(figures, "STEPS", 5)
    figures.run.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = figures.run("SET-Adam").seconds
    finally:
        torch.set_num_threads(threads)
        figures.run.cache_clear()
    assert list(seconds) == [1, 2, 5]
    for step, v in seconds.items():
        again = maker.unpacked(maker.packed(v))
        assert abs(again / v.flatten().double().numpy() - 1).max() <= 2**-8  # bfloat16's half unit
        # One unit of bfloat16, where the last bits of float32 decide how it is rounded, and what training adds to them.
        np.testing.assert_allclose(recorded(step), again, rtol=2**-7, atol=1e-4 * again.max())
