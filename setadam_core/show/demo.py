"""One step of SET-Adam on a layer of five coordinates, operation by operation: python -m setadam_core.show.demo

The layer is real, and small enough to follow by hand: the five biases of the first hidden layer of a network of
sigmoid units that learns handwritten digits, in its tenth step (`five_biases` in docs/figures.py).
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.show.operations import stepsizes_by_operation
from setadam_core.spec import State, Trace, trace

Floats = NDArray[np.float64]

# As recorded, to four digits.
PARAM = np.array([0.007513, -0.003702, 0.00217, -0.003872, 0.01345])
GRAD = np.array([2.683e-05, -2.332e-04, -9.888e-06, 1.323e-04, -1.661e-04])
STATE = State(
    m=np.array([-2.771e-05, 2.530e-05, -7.715e-06, 2.695e-05, -9.096e-05]),
    v=np.array([4.895e-11, 5.440e-10, 2.394e-12, 1.086e-10, 2.363e-10]),
    t=9,
)
# The stepsize after each operation, in the order of `stepsizes_by_operation`.
FORMULAS = ("1/(√v̂ + ε)", "1/(√(γv̂) + ε)", "1/w", "1/w̃")
AXIS_WIDTH = 56  # characters of the drawing's logarithmic axis
_NUMBER_WIDTH = 12


def rows(now: Trace, hp: Hyperparameters) -> list[tuple[str, str, str, Floats]]:
    """The lines of the algorithm: operation, symbol, formula, and its values (one, or one for each coordinate)."""
    root = "√(γv/(1-β₂ᵗ) + ε)" if hp.eps_inside_sqrt else "√(γv/(1-β₂ᵗ)) + ε"
    return [
        ("", "g", "gradient", now.g),
        ("", "m", "β₁ m + (1-β₁) g", now.m),
        ("", "v", "β₂ v + (1-β₂) g²", now.v),
        ("S", "γ", _cosine(hp.cos_power), now.gamma),
        ("", "γv", "", now.v_scaled),
        ("E", "w", root, now.w),
        ("", "min w", "", now.w_min),
        ("T", "w̃", "w - τ min w", now.w_shifted),
        ("", "1/w̃", "stepsize", now.stepsize),
        ("", "q", "η/(1-β₁ᵗ) m / w̃", now.update),
        ("", "θ", "θ - q", now.param),
    ]


def table(now: Trace, hp: Hyperparameters) -> str:
    """`rows` as text, one line for each."""
    d = now.v.size
    lines = [" " * 29 + "".join(f"{i:>{_NUMBER_WIDTH}}" for i in range(1, d + 1))]
    for operation, symbol, formula, values in rows(now, hp):
        numbers = "".join(f"{number(x):>{_NUMBER_WIDTH}}" for x in values.ravel())
        lines.append(f"{operation:2}{_pad(symbol, 6)}{'= ' if formula else '  '}{_pad(formula, 19)}{numbers}")
    return "\n".join(lines)


def drawing(stages: dict[str, Floats]) -> str:
    """The stepsizes of each stage as a bar from the smallest to the largest, on one logarithmic axis.

    A coordinate is drawn as its number, counted from 1. Where several coincide, the first is drawn.
    """
    low = math.log10(min(float(x.min()) for x in stages.values()))
    high = math.log10(max(float(x.max()) for x in stages.values()))
    span = max(high - low, 1e-3)  # 0 in a layer of equal stepsizes

    def place(x: float) -> int:
        return round((math.log10(x) - low) / span * (AXIS_WIDTH - 1))

    lines = [f"{'':24}{'':{AXIS_WIDTH}}  largest/smallest"]
    for (name, stepsizes), formula in zip(stages.items(), FORMULAS, strict=True):
        columns = [place(float(x)) for x in stepsizes]
        bar = ["─" if min(columns) <= k <= max(columns) else " " for k in range(AXIS_WIDTH)]
        for i, k in reversed(list(enumerate(columns, start=1))):
            bar[k] = str(i)
        ratio = float(stepsizes.max() / stepsizes.min())
        lines.append(f"{name:9}{_pad(formula, 15)}{''.join(bar)}  {ratio:.2f}")
    ends = number(10**low), number(10**high)
    return "\n".join([*lines, f"{'':24}{ends[0]}{ends[1]:>{AXIS_WIDTH - len(ends[0])}}"])


def number(x: float) -> str:
    """Four digits, with an exponent only below 0.01 and from a million."""
    if 1e3 <= abs(x) < 1e6:
        return f"{x:.0f}"
    return f"{x:.4g}" if x == 0 or 1e-2 <= abs(x) < 1e3 else f"{x:.3e}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the drawing, for the hyperparameters of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m setadam_core.show.demo", description="One step of SET-Adam, line by line."
    )
    defaults = Hyperparameters()
    parser.add_argument("--eps", type=float, default=defaults.eps, help="ε, %(default)s")
    parser.add_argument("--tau", type=float, default=defaults.tau, help="τ, %(default)s; 0 switches T off")
    parser.add_argument(
        "--cos-power", type=float, default=defaults.cos_power, help="n of γ = cosⁿ, %(default)s; 0 switches S off"
    )
    parser.add_argument("--eps-outside", action="store_true", help="ε after the root, as in Adam")
    args = parser.parse_args(argv)
    try:
        hp = Hyperparameters(eps=args.eps, tau=args.tau, cos_power=args.cos_power, eps_inside_sqrt=not args.eps_outside)
    except ValueError as error:
        parser.error(str(error))
    now = trace(PARAM, GRAD, STATE, hp)
    print(
        f"Step {now.t} of a layer of {PARAM.size} coordinates, η = {hp.lr:g}, β = ({hp.beta1:g}, {hp.beta2:g}), ",
        end="",
    )
    print(f"ε = {hp.eps:g}, τ = {hp.tau:g}\n")
    print(table(now, hp))
    print("\nThe stepsizes after each operation, on a logarithmic axis:\n")
    print(drawing(stepsizes_by_operation(PARAM, GRAD, STATE, hp)))


def _cosine(power: float) -> str:
    exponents = {0.0: "1 (S is off)", 1.0: "cos∠(v, 1)", 2.0: "cos²∠(v, 1)"}
    return exponents.get(power, f"cos∠(v, 1)^{power:g}")


def _pad(text: str, width: int) -> str:
    """Text padded to a number of columns; a tilde or hat over a letter takes no column."""
    return text + " " * (width - sum(not "\u0300" <= c <= "\u036f" for c in text))


if __name__ == "__main__":
    main()
