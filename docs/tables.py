"""Write the parts of the documentation that show code and its results: make figures

A page marks such a part, and the text between the marks is replaced:

    <!-- made by docs/tables.py: first-step -->
    …
    <!-- end -->

So the page is complete wherever it is shown, and tests/docs compares it with the code.
"""

import ast
import contextlib
import inspect
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from setadam_core import Hyperparameters, init, spec, step, trace
from setadam_core.layers import check_layer
from setadam_core.show import demo
from setadam_core.show.operations import stepsizes_by_operation

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
MADE = re.compile(r"(?<=<!-- made by docs/tables\.py: )([\w-]+)( -->\n)(.*?)(?=<!-- end -->)", flags=re.DOTALL)

ADAM = {"cos_power": 0, "eps_inside_sqrt": False, "tau": 0}


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [heading, ["---"] + ["--:"] * (len(heading) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def lines_of_trace(*names: str) -> list[str]:
    """The lines of `trace` that assign to these names."""
    source = inspect.getsource(spec.trace).splitlines()
    return [line for line in source if line.strip().startswith(tuple(f"{name} =" for name in names))]


def numbers(*symbols: str) -> str:
    """Rows of the demonstration's table."""
    hp = Hyperparameters()
    now = trace(demo.PARAM, demo.GRAD, demo.STATE, hp)
    before = {"m before": demo.STATE.m, "v before": demo.STATE.v, "θ before": demo.PARAM}
    known = before | {symbol: values for _, symbol, _, values in demo.rows(now, hp)}
    rows = []
    for symbol in symbols:
        values = [demo.number(x) for x in known[symbol].ravel()]
        rows.append([symbol, *values, *[""] * (5 - len(values))])
    return table(["coordinate", *"12345"], rows)


def line(code: Sequence[str], symbols: Sequence[str], function: Callable[..., Any] | None = None) -> str:
    """One line of the algorithm: its code in `trace`, the function that it calls, and the numbers."""
    blocks = [python(*(text.removeprefix("    ") for text in lines_of_trace(*code)))]
    if function is not None:
        blocks.append(python(inspect.getsource(function).rstrip()))
    return "\n\n".join([*blocks, numbers(*symbols)])


def demonstration() -> str:
    """What `python -m setadam_core.show.demo` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        demo.main([])
    return f"```text\n{printed.getvalue().rstrip()}\n```"


def after_each_operation() -> str:
    """Smallest and largest stepsize of the five coordinates, and their ratio."""
    stages = stepsizes_by_operation(demo.PARAM, demo.GRAD, demo.STATE, Hyperparameters())
    return table(
        ["after", "stepsize", "smallest", "largest", "largest/smallest"],
        (
            [name, formula, demo.number(x.min()), demo.number(x.max()), f"{x.max() / x.min():.2f}"]
            for (name, x), formula in zip(stages.items(), demo.FORMULAS, strict=True)
        ),
    )


def first_step() -> str:
    """The size of the first step, in units of η, if all gradients of a layer are equal."""
    rows = []
    for g in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8):
        grad = np.full(3, g)
        settings = (ADAM, {"cos_power": 0, "tau": 0}, {})
        moved = [-step(np.zeros(3), grad, init(grad), Hyperparameters(lr=1, **hp))[0][0] for hp in settings]
        rows.append([power_of_ten(g), *(f"{x:.4f}" for x in moved)])
    return table(["g", "Adam, √v̂ + ε", "ε under the root, √(v̂ + ε)", "SET-Adam"], rows)


def power_of_ten(x: float) -> str:
    """1e-2 and the like."""
    return f"1e{round(np.log10(x))}"


# Where libraries add ε: the denominator from v̂ = v/(1-β₂ᵗ) and 1-β₂ᵗ.
PLACEMENTS: dict[str, Callable[[Any, float, float], Any]] = {
    "√v̂ + ε": lambda v_hat, bc, eps: np.sqrt(v_hat) + eps,
    "√v + ε, corrected afterwards": lambda v_hat, bc, eps: (np.sqrt(v_hat * bc) + eps) / np.sqrt(bc),
    "max(√v̂, ε)": lambda v_hat, bc, eps: np.maximum(np.sqrt(v_hat), eps),
    "√(v̂ + ε)": lambda v_hat, bc, eps: np.sqrt(v_hat + eps),
}
SIZES = (1e-2, 1e-4, 1e-6, 1e-8)


def adam_with(denominator: Callable[[Any, float, float], Any], grads: Any, eps: float) -> Any:
    """θ after a step of Adam for each row of grads, from θ = 0, with η = 1 and this denominator."""
    beta1, beta2 = 0.9, 0.999
    theta = m = v = np.zeros_like(grads[0])
    for t, g in enumerate(grads, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        bc1, bc2 = 1 - beta1**t, 1 - beta2**t
        theta = theta - m / bc1 / denominator(v / bc2, bc2, eps)
    return theta


def five_gradients(size: float) -> Any:
    """Five gradients of a hundred coordinates, normally distributed with this standard deviation."""
    return size * np.random.RandomState(0).normal(size=(5, 100))


def set_adam_after(grads: Any, eps: float) -> Any:
    """θ after a step of SET-Adam for each row of grads, from θ = 0, with η = 1."""
    theta, state = np.zeros_like(grads[0]), init(grads[0])
    for g in grads:
        theta, state = step(theta, g, state, Hyperparameters(lr=1, eps=eps))
    return theta


def placement(eps: float = 1e-8) -> str:
    """The distance from Adam's end point after five steps with ε elsewhere, relative to what Adam covered."""
    rows = []
    variants = {name: partial(adam_with, denominator) for name, denominator in PLACEMENTS.items()}
    for name, run in {**variants, "SET-Adam, √(γv̂ + ε) - τ min": set_adam_after}.items():
        shares = []
        for size in SIZES:
            grads = five_gradients(size)
            adam = adam_with(PLACEMENTS["√v̂ + ε"], grads, eps)
            shares.append(np.linalg.norm(run(grads, eps) - adam) / np.linalg.norm(adam))
        rows.append([name, *(f"{share:.2g}" if share else "0" for share in shares)])
    return table(["denominator", *(f"g ~ {power_of_ten(size)}" for size in SIZES)], rows)


def gamma_by_scale() -> str:
    """γ of the first step on a hundred normal gradients in float32, by scale and by formula."""
    draw = np.random.RandomState(0).normal(size=100)
    rows = []
    for size in (1e-17, 1e-11, 1e-8, 1e-5, 1e-3, 1.0, 1e10, 1e12):
        v = np.float32(1e-3) * np.float32(size * draw) ** 2
        layer = check_layer(v, v, v, v, 0, Hyperparameters(), None)
        with np.errstate(all="ignore"):
            square, squares = np.sum(v) ** 2, np.sum(v * v)
            printed = square / (v.size * squares)
            guarded = square / (v.size * (squares + np.float32(1e-20)))
        values = (float(spec.down_scaling(v, layer, 2)[0]), float(printed), float(guarded))
        rows.append([power_of_ten(size), *(f"{x:.3f}" for x in values)])
    return table(["g ~", "`setadam_core`", "(Σv)²/(dΣv²)", "(Σv)²/(d(Σv² + 1e-20))"], rows)


def correction_by_step() -> str:
    """The relative error of 1-β₂ᵗ in float32, by step and by form."""
    beta, rows = 0.999, []
    for t in (1, 10, 100, 1000, 10_000):
        exact = -math.expm1(t * math.log(beta))
        power = float(np.float32(1) - np.float32(beta) ** np.float32(t))
        rounded = float(np.float32(exact))
        rows.append([str(t), *(f"{abs(x - exact) / exact:.0e}" for x in (rounded, power))])
    return table(["t", "`setadam_core`, rounded to float32", "1 - float32(β₂)ᵗ"], rows)


# What is said to users who come from Adam, in one wording on every page that says it.
RECIPE = """
1. **η: half of Adam's.** With τ = ½, steps are up to twice as large as with Adam. Keep β₁, β₂, the schedule, warm-up
   and clipping. Double a decoupled weight decay, so that ηλ is the same. From AdamW, pass `decoupled_weight_decay=True`
   in torch, NumPy and CuPy; in JAX and Keras it is the default.
2. **ε: the default, 1e-8, whatever Adam's was**, since it is added under the root, as the square of Adam's. After some
   hundred steps, look at `floor_share` in `layer_statistics`, and change ε by factors of 100:

   | `floor_share` of a layer | what it means | what to do |
   |---|---|---|
   | 1 | ε outweighs all second moments: momentum with the step η/((1-τ)√ε), nothing is adaptive | lower ε |
   | ½ | half of the coordinates share one stepsize, the others adapt: E narrows the layer | nothing |
   | 0 | ε has no effect: stepsizes are Adam's, raised by S and T | raise ε, or leave it if training is good |

3. **Watch** γ, since S raises the stepsizes of a layer by up to 1/√γ: a loss that jumps after the change, with γ below
   0.1 somewhere, needs a smaller η. And skip a step whose gradient is not finite: one NaN makes its *whole layer* NaN,
   where Adam loses one coordinate.
"""
# The same in a docstring.
RECIPE_IN_SHORT = (
    "Coming from Adam: start with half of its learning rate and the default ε, and change ε by factors of 100 where "
    "``floor_share`` of `layer_statistics` is 0 or 1. One NaN in a gradient makes its whole layer NaN: skip "
    "such a step."
)

OPERATIONS = ROOT / "docs/operations.md"
STATEMENT = re.compile(
    r"^\*\*\[(\d+)\]\(statements\.md#statement-\d+\)\. (.*?)\*\*(.*?)\[(`test_[^\]]*)\]", flags=re.DOTALL | re.MULTILINE
)


def statements() -> list[tuple[str, str, list[str]]]:
    """Of the statements in docs/operations.md: number, what is said, and the names of the tests."""
    found = STATEMENT.findall(OPERATIONS.read_text(encoding="utf-8"))
    return [
        (number, " ".join(said.split()).rstrip("."), re.findall(r"`(test_\w+)`", names))
        for number, said, _, names in found
    ]


def tests_of_statements() -> str:
    """Each statement, and the source of the tests that hold it."""
    sources = {}
    for path in sorted(ROOT.glob("tests/core/test_*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                sources[node.name] = (path, lines[first - 1 : node.end_lineno])
    parts = []
    for number, said, names in statements():
        parts.append(f"## Statement {number}\n\n{said}.")
        for name in names:
            path, code = sources[name]
            parts += [f"In `{path.relative_to(ROOT)}`:", python(*code)]
    return "\n\n".join(parts)


BLOCKS: dict[str, Callable[[], str]] = {
    "demonstration": demonstration,
    "after-each-operation": after_each_operation,
    "first-step": first_step,
    "placement": placement,
    "gamma-by-scale": gamma_by_scale,
    "correction-by-step": correction_by_step,
    "line-moments": partial(line, ("m", "v"), ("g", "m before", "m", "v before", "v")),
    "line-s": partial(line, ("gamma", "v_scaled"), ("v", "γ", "γv"), spec.down_scaling),
    "line-e": partial(line, ("w",), ("γv", "w"), spec.embed_epsilon),
    "line-t": partial(line, ("w_min", "w_shifted"), ("w", "min w", "w̃", "1/w̃"), spec.down_translate),
    "line-update": partial(line, ("update", "param"), ("m", "w̃", "q", "θ before", "θ")),
    "recipe": RECIPE.strip,
    "tests-of-statements": tests_of_statements,
    "bias-correction": lambda: python(inspect.getsource(spec.bias_correction).rstrip()),
}


def written(text: str) -> str:
    """The page with all generated parts up to date. KeyError for a name that is not in BLOCKS."""
    return MADE.sub(lambda found: f"{found[1]}{found[2]}\n{BLOCKS[found[1]]()}\n\n", text)


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = written(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
