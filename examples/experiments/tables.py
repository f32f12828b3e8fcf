"""Tables over seeds, and a sentence with what can be concluded from them."""

import statistics
from collections.abc import Sequence
from pathlib import Path

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


def conclusion(what: str, ours: Sequence[float], other: str, theirs: Sequence[float]) -> str:
    """Whether two settings differ significantly, seed by seed."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = interval(differences)
    verdict = f"{what} is better" if low > 0 else f"{other} is better" if high < 0 else "no difference can be claimed"
    mean = statistics.mean(differences)
    return f"{what} minus {other}: {mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}: {verdict}."


def summary(conclusions: Sequence[str], ours: str) -> str:
    """One sentence on all of them: how often there was a difference, and in favour of which."""
    better = sum(line.endswith(f": {ours} is better.") for line in conclusions)
    none = sum(line.endswith("no difference can be claimed.") for line in conclusions)
    worse = len(conclusions) - better - none
    return (
        f"Of {len(conclusions)} comparisons, {ours} is better in {better} and worse in {worse}; in {none} no "
        "difference can be claimed. By chance alone, one in twenty would look like one."
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
