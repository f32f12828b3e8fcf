"""Tables over seeds, and a sentence with what can be concluded from them."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student


def opening(doc: str) -> str:
    """The text of a study's docstring before its command, without "Study 1:", which is in the report's title."""
    words = " ".join(doc.split("    ")[0].split()).partition(": ")[2]
    return words[0].upper() + words[1:]


def mean_std(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}".replace(" ", "\N{NO-BREAK SPACE}")


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of paired differences, one for each seed."""
    n, mean = len(differences), statistics.mean(differences)
    half = student.ppf(0.5 + level / 2, n - 1) * statistics.stdev(differences) / n**0.5
    return mean - half, mean + half


def conclusion(
    what: str,
    ours: Sequence[float],
    other: str,
    theirs: Sequence[float],
    unit: str = "points",
    less_is_better: bool = False,
) -> str:
    """Whether two settings differ significantly, seed by seed."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = interval(differences)
    higher, lower = (other, what) if less_is_better else (what, other)
    verdict = f"{higher if low > 0 else lower} is better" if low > 0 or high < 0 else "no difference can be claimed"
    mean, digits = statistics.mean(differences), 3 if less_is_better else 2
    interval_ = f"{low:+.{digits}f} to {high:+.{digits}f}"
    return f"{what} minus {other}: {mean:+.{digits}f} {unit}, 95 % interval {interval_}: {verdict}."


def sign_flips(differences: Sequence[float]) -> float:
    """The exact two-sided p of the mean of paired differences: how many of the 2ⁿ choices of signs give as large a
    mean. It assumes only that, if the two settings do not differ, each sign is as likely as the other.
    """
    signs = 1 - 2 * (np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1)
    sums = abs(signs @ np.asarray(differences))
    return float(np.mean(sums >= sums[0] * (1 - 1e-12)))  # the first choice is the data; sums are rounded


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction for the number of comparisons: each p as it would have to be read if it were the only one."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def summary(conclusions: Sequence[str], ours: str) -> str:
    """One sentence on all of them: how often there was a difference, and in favour of which."""
    better = sum(line.endswith(f": {ours} is better.") for line in conclusions)
    none = sum(line.endswith("no difference can be claimed.") for line in conclusions)
    worse = len(conclusions) - better - none
    return (
        f"Of {len(conclusions)} comparisons, {ours} is better in {better} and worse in {worse}; in {none} no "
        "difference can be claimed. By chance alone, one in twenty would look like one."
    )


def summary_of_pairs(conclusions: Sequence[str], base: str) -> str:
    """One sentence on comparisons of several settings with one."""
    worse = sum(line.endswith(f": {base} is better.") for line in conclusions)
    none = sum(line.endswith("no difference can be claimed.") for line in conclusions)
    better = len(conclusions) - worse - none
    return (
        f"Of {len(conclusions)} comparisons with {base}, {better} are better than it and {worse} worse; in {none} no "
        "difference can be claimed."
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write(file: Path, text: str) -> None:
    """Write a report, and show it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    print(text)
