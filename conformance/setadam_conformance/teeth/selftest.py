"""`setadam-conformance selftest`: the kit must reject every seeded fault, reject no correct variant, and notice every
fault of the kit itself. The result has the share of examples that reject each fault, for each property.
"""

import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from setadam_conformance.cases.dimensions import TABLE
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.workers import Spawning
from setadam_conformance.teeth import FAULTS, KIT_FAULTS, VARIANTS, check_kit
from setadam_conformance.teeth.circumstances import Group, groups
from setadam_conformance.teeth.examples import cells, examples, rejected
from setadam_conformance.teeth.faults.declare import ALL_DTYPES
from setadam_conformance.teeth.sampler import worst

# All properties are tried in the first of these dtypes in which the fault is wrong; in the others, one rejection is
# enough.
_FIRST = ("float32", "float64", "bfloat16", "float16")
# Layers for each variant and dtype, in addition to the profile's examples.
SAMPLED = {"quick": 300, "default": 5_000, "deep": 100_000}

PARTS = ("faults", "circumstances", "variants", "kit")

# These take as long as all others together, so they are tried only on faults that no other property rejects.
_DEAR = (
    "large-layer",
    "recorded-training",
    "stochastic-rounding-is-unbiased",
    "stochastic-rounding-thresholds",
)

Shares = dict[str, float]  # by property: the share of its examples that reject; without properties that reject none


class Rejections(NamedTuple):
    """Of the faults of one group of dimensions: how many were tried, and the names of those that nothing rejected."""

    tried: int
    survivors: list[str]


@dataclass
class SelftestResult:
    """The result. faults: fault → dtype → property → share. variants: what wrongly rejected each one."""

    profile: str
    layers: int = 0  # sampled for each variant and dtype
    faults: dict[str, dict[str, Shares]] = field(default_factory=dict)
    circumstances: dict[Group, Rejections] = field(default_factory=dict)  # by the dimensions of their classes
    variants: dict[str, list[str]] = field(default_factory=dict)
    ratios: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # variant → dtype → stage
    kit: dict[str, list[str]] = field(default_factory=dict)

    @property
    def survivors(self) -> list[str]:
        """Faults that no property rejected in any of their dtypes."""
        return [name for name, found in self.faults.items() if not any(found.values())]

    @property
    def unseen(self) -> list[str]:
        """Classes, and pairs of classes, whose faults no example rejected."""
        return [name for found in self.circumstances.values() for name in found.survivors]

    @property
    def accused(self) -> list[str]:
        """Correct variants that were rejected."""
        return [name for name, found in self.variants.items() if found]

    @property
    def unnoticed(self) -> list[str]:
        """Faults of the kit that no check noticed, and "" if the unchanged kit fails a check."""
        return [name for name, found in self.kit.items() if bool(found) is (name == "")]

    @property
    def sound(self) -> bool:
        tried = self.faults or self.circumstances or self.variants or self.kit
        return bool(tried) and not (self.survivors or self.unseen or self.accused or self.unnoticed)


def try_fault(name: str, profile: str, brief: bool = False) -> dict[str, Shares]:
    """The shares of examples that reject a fault, by dtype and property.

    brief: stop at the first rejection, in the first dtype that has one. Its share then has no meaning.
    """
    fault = FAULTS[name]
    found: dict[str, Shares] = {}
    order = [dtype for dtype in _FIRST if dtype in fault.dtypes]
    for dtype in order:
        shares: Shares = {}
        for cell in _in_order(cells(profile, dtype, claims=fault.adapter.capabilities)):
            if shares and cell.property in _DEAR:
                continue
            count, _ = rejected(fault.adapter(), cell, stop=brief)
            if count:
                shares[cell.property] = count / len(examples(cell, fault.adapter.capabilities))
                if brief or dtype != order[0]:
                    break
        found[dtype] = shares
        if brief and shares:
            break
    return found


def try_circumstances(group: Group, profile: str, brief: bool = False) -> Rejections:
    """The faults of all classes of a dimension, or of all pairs of classes of two. brief: one of them."""
    faults = groups()[group][: 1 if brief else None]
    return Rejections(len(faults), [fault.name for fault in faults if not fault.is_rejected(profile)])


def _in_order(plans: tuple[Plan, ...]) -> list[Plan]:
    """The cells, with the property that rejects the most faults first and the expensive ones last."""
    return sorted(plans, key=lambda cell: (cell.property != "one-step", cell.property in _DEAR))


def try_variant(
    name: str, profile: str, layers: int, brief: bool = False
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """What rejected a correct variant, and its worst error/bound by dtype and stage over this many layers.

    brief: with every third cell, others for the next variant, and none of the expensive properties; in dtypes
    other than the first with sampled layers only.
    """
    variant, wrongly, ratios = VARIANTS[name], [], {}
    claims = variant.adapter.capabilities
    for dtype in claims.dtypes:
        every = _in_order(cells(profile, dtype, claims=claims))
        if profile == "quick" and dtype != _FIRST[0]:
            every = [] if brief else every[:1]
        elif brief:
            every = [cell for cell in every if cell.property not in _DEAR][list(VARIANTS).index(name) % 3 :: 3]
        for cell in every:
            count, message = rejected(variant.adapter(), cell)
            if count:
                wrongly.append(f"{cell.property} {dtype}: {count} of {len(examples(cell, claims))}: {message}")
        ratios[dtype], beyond = worst(variant.adapter(), dtype, layers)
        if beyond:
            wrongly.append(f"sampler {dtype}: {len(beyond)} batches, {ratios[dtype]}")
    return wrongly, ratios


Task = tuple[Callable[..., Any], tuple[Any, ...]]


def _do(task: Task) -> Any:
    function, arguments = task
    return function(*arguments)


def selftest(
    profile: str = "quick",
    progress: Callable[[int, int], None] | None = None,
    jobs: int | None = None,
    *,
    parts: Collection[str] = PARTS,
    layers: int | None = None,
    brief: bool = False,
) -> SelftestResult:
    """Try every fault, variant and fault of the kit.

    progress: called with the number done and the total. parts: which of PARTS to try. layers: the number sampled for
    each variant and dtype, in addition to the profile's examples. brief: see `try_fault` and `try_variant`.
    """
    result = SelftestResult(profile, SAMPLED[profile] if layers is None else layers)
    tasks: dict[tuple[str, Any], Task] = {}
    if "variants" in parts:
        tasks |= {("variants", name): (try_variant, (name, profile, result.layers, brief)) for name in VARIANTS}
    if "faults" in parts:
        tasks |= {("faults", name): (try_fault, (name, profile, brief)) for name in FAULTS}
    if "circumstances" in parts:
        tasks |= {("circumstances", group): (try_circumstances, (group, profile, brief)) for group in groups()}
    if "kit" in parts:
        tasks["kit", ""] = (check_kit, ())
    answers = _map(list(tasks.values()), jobs or min(os.cpu_count() or 1, 8))
    for done, ((part, name), found) in enumerate(zip(tasks, answers, strict=True), 1):
        if part == "faults":
            result.faults[name] = found
        elif part == "circumstances":
            result.circumstances[name] = found
        elif part == "variants":
            result.variants[name], result.ratios[name] = found
        else:
            result.kit = found
        if progress:
            progress(done, len(tasks))
    return result


def _map(tasks: list[Task], jobs: int) -> Iterable[Any]:
    if jobs == 1:
        yield from map(_do, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=Spawning()) as pool:
        yield from pool.map(_do, tasks, chunksize=1)


def markdown(result: SelftestResult) -> str:
    """The tables of the documentation: fault × property × share, variants, faults of the kit."""
    lines = [
        "# What the kit rejects",
        "",
        f"Written by `setadam-conformance selftest --profile {result.profile} --layers {result.layers}"
        f" --markdown docs/teeth.md` on {date.today()}.",
        "",
        f"## {len(result.faults)} seeded faults",
        "",
        "The share of a property's examples that reject the fault is given for the first dtype. For the other dtypes,",
        "the table says whether any property rejects it.",
        "",
        "| fault | what is wrong | dtypes | rejected by (share of its examples) |",
        "|---|---|---|---|",
    ]
    for kind in dict.fromkeys(fault.kind for fault in FAULTS.values()):
        lines.append(f"| **{kind}** | | | |")
        for name, found in result.faults.items():
            fault = FAULTS[name]
            if fault.kind != kind:
                continue
            first = next(iter(found))
            shares = sorted(found[first].items(), key=lambda item: -item[1])
            dtypes = ", ".join(dtype if found[dtype] else f"({dtype}: unseen)" for dtype in found)
            text = ", ".join(f"{name} {share:.2f}" for name, share in shares) or "—"
            why = f" ({fault.why})" if fault.why else ""
            lines.append(f"| {name} | {fault.what} | {dtypes}{why} | {text} |")
    lines += ["", *_circumstances(result)]
    lines += ["", f"## {len(result.variants)} correct variants", ""]
    lines += [
        "The worst error/bound of m, of v, of θ, and of θ where it was 0. None may exceed 1."
        f" {result.layers} sampled layers for each variant and dtype, in addition to the profile's examples.",
        "",
    ]
    lines += [
        "| variant | what differs | " + " | ".join(ALL_DTYPES) + " | wrongly rejected by |",
        "|---|---|" + "---|" * (len(ALL_DTYPES) + 1),
    ]
    for name, wrongly in result.variants.items():
        ratios = result.ratios[name]  # of the dtypes that the variant claims
        each = [" ".join(f"{x:.2f}" for x in ratios.get(dtype, {}).values()) or "–" for dtype in ALL_DTYPES]
        blamed = ", ".join(text.partition(":")[0] for text in wrongly) or "none"
        lines.append(f"| {name} | {VARIANTS[name].what} | " + " | ".join(each) + f" | {blamed} |")
    lines += [
        "",
        f"## {len(KIT_FAULTS)} faults of the kit itself",
        "",
        "| fault | what is wrong | noticed by |",
        "|---|---|---|",
    ]
    for name, fault_of_kit in KIT_FAULTS.items():
        lines.append(f"| {name} | {fault_of_kit.what} | {', '.join(result.kit.get(name, [])) or '—'} |")
    return "\n".join(lines) + "\n"


def _circumstances(result: SelftestResult) -> list[str]:
    """The section about faults that are made from the table of dimensions."""
    tried = {True: 0, False: 0}  # whether of pairs
    rows = {name: [0, 0, 0, 0] for name in TABLE}  # faults of classes and of pairs, each tried and rejected
    for group, (count, survivors) in result.circumstances.items():
        tried[len(group) > 1] += count
        for name in group:
            at = 2 * (len(group) > 1)
            rows[name][at] += count
            rows[name][at + 1] += count - len(survivors)
    lines = [
        f"## {tried[False]} faults of classes, {tried[True]} of pairs",
        "",
        "`teeth/circumstances.py` makes a fault from each class in [the table of",
        "dimensions](conformance.md#what-is-tried), and one from each pair of classes that can meet. Each is right",
        "except where its classes occur in one layer; there it returns 7 for m, v and θ. It reads the classes from the",
        "arrays and numbers of the call. The table counts those that the examples of `circumstances` reject. A pair",
        "counts for both of its dimensions." + (f" Not rejected: {'; '.join(result.unseen)}." if result.unseen else ""),
        "",
        "| dimension | classes rejected | pairs rejected |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {x[1]} of {x[0]} | {x[3]} of {x[2]} |" for name, x in rows.items()]
    return lines


def main(
    profile: str = "quick",
    to: Path | None = None,
    *,
    parts: Collection[str] = PARTS,
    layers: int | None = None,
    jobs: int | None = None,
) -> bool:
    """Run the self-test, print what it found, and write the tables; True if the kit is sound."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(emoji=False)
    with Progress(TextColumn("selftest"), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("selftest")
        result = selftest(
            profile,
            lambda done, total: bar.update(task, completed=done, total=total),
            jobs,
            parts=parts,
            layers=layers,
        )
    for part, kind, names, many in (
        ("faults", "seeded faults rejected", result.survivors, len(result.faults)),
        (
            "circumstances",
            "faults of classes and pairs rejected",
            result.unseen,
            sum(found.tried for found in result.circumstances.values()),
        ),
        ("variants", "correct variants accepted", result.accused, len(result.variants)),
        ("kit", "faults of the kit noticed", result.unnoticed, len(KIT_FAULTS)),
    ):
        if part not in parts:
            continue
        print(f"{many - len(names):4} of {many} {kind}" + (f"; not: {', '.join(names)}" if names else ""))
    if result.ratios:
        ratio, where = max(
            (x, f"{stage} of {name} in {dtype}")
            for name, by_dtype in result.ratios.items()
            for dtype, by_stage in by_dtype.items()
            for stage, x in by_stage.items()
        )
        print(f"     {result.layers} sampled layers for each variant and dtype, worst error/bound {ratio:.4f}: {where}")
    for name in result.accused:
        print(*(f"  {name}: {text}" for text in result.variants[name]), sep="\n")
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(markdown(result), encoding="utf-8")
    return result.sound
