"""The code in README and the documentation runs, and the code that they show is up to date."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from setadam_core import Hyperparameters, init, step
from setadam_core.show import demo
from setadam_core.show.operations import stepsizes_by_operation

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """A script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = script("tables")
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in tables.PAGES}
PAGES["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^( *)```python\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
# What is made by docs/tables.py are excerpts, and do not run alone.
BLOCKS = {
    f"{page}:{i}": textwrap.dedent(code)
    for page, text in PAGES.items()
    for i, (_, code) in enumerate(FENCED.findall(tables.MADE.sub("", text)))
}


ON_A_GPU = {name: [pytest.mark.gpu] * ("import cupy\n" in code) for name, code in BLOCKS.items()}


# What Keras says of a tensor that it reads under NumPy 2, and torch of every checkpoint of one process.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in ON_A_GPU.items()])
def test_python_block(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each block on its own, in an empty folder. Skips if its framework is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples/adapters"))  # of the textbook's adapter
    code = BLOCKS[name]
    for package in re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE):
        framework = package.removeprefix("setadam_")
        if framework not in ("core", "conformance") and importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    if chosen := re.search(r'"KERAS_BACKEND"(?:\] = |, )"(\w+)"', code):  # one in a process
        pytest.importorskip(chosen[1])
        env = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": chosen[1]}
        subprocess.run([sys.executable, "-c", code], check=True, env=env)
        return
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


def test_there_is_something_to_run() -> None:
    assert {"README.md", "docs/step.md", "docs/operations.md", "docs/adam.md"} <= {n.split(":")[0] for n in BLOCKS}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_of_the_code_is_up_to_date(page: str) -> None:
    """If this fails: make figures."""
    text = PAGES[page]
    assert tables.written(text) == text
    assert text.count("<!-- made by") == text.count("<!-- end -->") == len(tables.MADE.findall(text))


def test_everything_that_is_made_is_shown() -> None:
    shown = {found[0] for text in PAGES.values() for found in tables.MADE.findall(text)}
    assert shown == set(tables.BLOCKS)


def test_pictures_and_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.fixture(scope="module")
def figures() -> Iterator[ModuleType]:
    for package in ("matplotlib", "sklearn", "torch"):
        pytest.importorskip(package)
    import torch

    threads = torch.get_num_threads()
    yield script("figures")
    torch.set_num_threads(threads)


def test_every_figure_is_made_by_a_script_and_shown(figures: ModuleType) -> None:
    made = {figures.path_of(name).name for name in figures.FIGURES} | {"sharding.svg"}  # of docs/sharding_figure.py
    assert made == {path.name for path in (ROOT / "docs/figures").iterdir()}
    shown = {Path(target).name for text in PAGES.values() for target in re.findall(r"!\[.*?\]\((.*?)\)", text)}
    assert made <= shown


def test_figures_come_out_the_same(figures: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Byte for byte, here in short runs."""
    monkeypatch.setattr(figures, "STEPS", 2)
    monkeypatch.setattr(figures, "EVERY", 1)
    monkeypatch.setattr(figures, "MOMENTS", (2, 2))  # the first step has no state before it
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        figures.run.cache_clear()
        figures.main(["--out", str(folder)])
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {figures.path_of(name).name for name in figures.FIGURES}


def test_what_is_said_of_the_pictures_holds(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers beside them in docs/operations.md, with the digits that are given there."""
    text = PAGES["docs/operations.md"].replace("\n", " ")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # the fixture sets it back
    figures.run.cache_clear()
    monkeypatch.setattr(figures, "STEPS", 1)
    adams = figures.run("Adam")
    monkeypatch.setattr(figures, "STEPS", figures.MOMENTS[1])
    ours = figures.run("SET-Adam")
    low, *_, high = sorted(
        adams.history[1][name]["stepsize_std"] / row["stepsize_std"]
        for name, row in ours.history[1].items()
        if name.endswith("weight")
    )
    assert f"is {float(f'{low:.1g}'):.0f} to {float(f'{high:.1g}'):.0f} times that of SET-Adam's" in text
    later = stepsizes_by_operation(*ours.moments[figures.MOMENTS[1]], Hyperparameters())
    adam, _, embedded, translated = (float(x.max() / x.min()) for x in later.values())
    # A ratio of two extremes after 200 steps differs between processors: 17 % and 30 % were seen.
    assert "E lowers the ratio by less than a third" in text
    assert 2 / 3 < embedded / adam < 1
    assert f"{translated / embedded:.1g}" == "2"
    assert translated > adam
    figures.run.cache_clear()


def test_the_share_on_the_floor_is_as_the_recipe_says() -> None:
    """1: momentum with the step η/((1-τ)√ε). Between: the ratio is less than Adam's. 0: ε has no effect."""
    numpy_backend = pytest.importorskip("setadam_numpy")
    draw, hp = np.random.RandomState(0).normal(size=1000), Hyperparameters()
    found, narrowed = {}, {}
    for size in (1e-7, 2.5e-4, 1e3):
        optimizer = numpy_backend.SETAdam({"w": np.zeros(1000)}, eps=hp.eps, tau=hp.tau)
        optimizer.step({"w": size * draw})
        found[size] = optimizer.layer_statistics()["w"]
        stages = stepsizes_by_operation(np.zeros(1000), size * draw, init(draw), hp)
        adam, embedded = (x.max() / x.min() for x in (stages["Adam"], stages["S, E"]))
        narrowed[size] = embedded / adam
    assert [found[size]["floor_share"] for size in (1e-7, 1e3)] == [1, 0]
    assert 0.4 < found[2.5e-4]["floor_share"] < 0.6
    # γv̂/ε is 1e-6 times the square of a normal number, and w̃ off by as much.
    top, bottom = (found[1e-7][f"stepsize_{end}"] * (1 - hp.tau) * hp.eps**0.5 for end in ("max", "min"))
    assert 1 - 2e-5 < bottom <= top < 1 + 1e-9
    assert narrowed[2.5e-4] < 0.1
    assert narrowed[1e3] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("place", ["setadam_torch:SETAdam", "setadam_jax:set_adam", "setadam_numpy:SETAdam"])
def test_the_recipe_is_in_the_docstring(place: str) -> None:
    package, _, name = place.partition(":")
    pytest.importorskip(package.removeprefix("setadam_"))
    said = " ".join(str(getattr(importlib.import_module(package), name).__doc__).split())
    assert tables.RECIPE_IN_SHORT in said


@pytest.mark.parametrize("page", ["README.md", "docs/adam.md", "docs/torch.md", "docs/jax.md"])
def test_the_recipe_is_on_the_page(page: str) -> None:
    assert "recipe" in [found[0] for found in tables.MADE.findall(PAGES[page])]


def test_each_theorem_leads_to_its_tests() -> None:
    text = PAGES["docs/operations.md"]
    numbers = re.findall(r"^\*\*\[(\d+)\]\(", text, flags=re.MULTILINE)
    assert numbers == [str(i) for i in range(1, len(numbers) + 1)]
    assert [number for number, *_ in tables.statements()] == numbers
    shown = PAGES["docs/statements.md"]
    assert re.findall(r"^## Statement (\d+)$", shown, flags=re.MULTILINE) == numbers
    for _, _, names in tables.statements():
        assert names
        assert all(f"def {name}(" in shown for name in names)


def test_each_exercise_has_a_solution_that_runs() -> None:
    """Its code is one of the blocks that `test_python_block` runs; the statements that it names exist."""
    text, count = PAGES["docs/exercises.md"], len(tables.statements())
    exercises = re.split(r"^## .*\?$", text, flags=re.MULTILINE)[1:]
    assert len(exercises) == 6
    for exercise in exercises:
        question, solution = exercise.split("<details>\n<summary>Solution</summary>\n")
        assert "```" not in question
        assert solution.rstrip().endswith("</details>")
        (code,) = (code for _, code in FENCED.findall(solution))
        assert "assert" in code
    for shown, number in re.findall(r"\[(\d+)\]\(statements\.md#statement-(\d+)\)", text):
        assert shown == number
        assert 1 <= int(number) <= count


def test_table_of_placements_holds() -> None:
    """PyTorch's Adam is the first row, up to rounding, and the other rows differ as the table says."""
    torch = pytest.importorskip("torch")
    for size in tables.SIZES:
        grads = tables.five_gradients(size)
        param = torch.zeros(100, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([param], lr=1, eps=1e-8)
        for grad in grads:
            param.grad = torch.from_numpy(grad)
            adam.step()
        ours = tables.adam_with(tables.PLACEMENTS["√v̂ + ε"], grads, 1e-8)
        # 1-βᵗ cancels in both: to 1e-13 at t = 1 for β₂
        np.testing.assert_allclose(param.detach().numpy(), ours, rtol=1e-12, atol=1e-13)


def test_table_of_placements_has_optax_in_its_rows() -> None:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    rows = {"√v̂ + ε": {"eps": 1e-8}, "√(v̂ + ε)": {"eps": 0, "eps_root": 1e-8}}
    with jax.enable_x64(True):
        for name, options in rows.items():
            grads = tables.five_gradients(1e-6)
            optimizer = optax.adam(1.0, **options)
            theta = jax.numpy.zeros(100, jax.numpy.float64)
            state = optimizer.init(theta)
            for grad in grads:
                updates, state = optimizer.update(jax.numpy.asarray(grad), state, theta)
                theta = theta + updates
            ours = tables.adam_with(tables.PLACEMENTS[name], grads, 1e-8)
            # optax's powers of β are float32 where x64 is off; here they are double, and cancel as ours do.
            np.testing.assert_allclose(theta, ours, rtol=1e-12, atol=1e-13)


def test_smallest_eps_is_as_the_table_of_dtypes_says() -> None:
    printed = re.findall(r"^\| [\w ,]+ \| (float\d\d).* \| (\S+) \|$", PAGES["docs/numerics.md"], flags=re.MULTILINE)
    assert len(printed) == 3
    for dtype, smallest in printed:
        info = np.finfo(dtype)
        assert f"{info.smallest_normal:.1e}" == smallest
        Hyperparameters(eps=float(info.smallest_normal)).check_representable(dtype, float(info.smallest_normal), 1e9)
        param = np.ones(2, dtype)
        with pytest.raises(ValueError, match="eps must be at least"):
            step(param, param, init(param), Hyperparameters(eps=float(info.smallest_normal) / 2))


def test_the_demonstrations_layer_is_a_real_one(figures: ModuleType) -> None:
    """Its numbers are those of the training run in docs/figures.py, to four digits."""
    param, grad, state = figures.five_biases()
    assert state.t == demo.STATE.t
    for kept, recorded in ((demo.PARAM, param), (demo.GRAD, grad), (demo.STATE.m, state.m), (demo.STATE.v, state.v)):
        np.testing.assert_allclose(kept, recorded, rtol=5.1e-4)
