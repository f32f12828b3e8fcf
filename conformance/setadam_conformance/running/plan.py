"""What a run consists of: cells of property × backend × dtype, and how many examples each gets."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.properties import PROPERTIES, Property
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.backends import Source


@dataclass(frozen=True)
class Profile:
    """How much is tried: a property makes `examples` × its share, over the backend's cost."""

    name: str
    examples: int
    least: int  # examples of any property, however dear
    spares: bool = True  # what is dear is tried in one dtype, not in all
    hurries: bool = False  # and no graph is compiled for a single property, or a single setting where it is slow


PROFILES = {
    "quick": Profile("quick", 12, 2, hurries=True),
    "default": Profile("default", 40, 2),
    "deep": Profile("deep", 4000, 40, spares=False),
}


@dataclass(frozen=True)
class Plan:
    """One cell to run. It travels to worker processes, so it names everything and holds nothing."""

    property: str
    source: Source
    dtype: str
    device: str
    examples: int
    minimum: int
    seed: int
    shard: tuple[int, int]
    # Cells that gain by one process: a framework's, or those of a backend whose graphs take seconds.
    group: str = ""
    # All examples have the default hyperparameters, for which a slow compiler then makes one graph.
    at_defaults: bool = False


def seed_of(cell: Plan) -> int:
    """The seed of the cell's examples: the same for all backends."""
    text = f"{cell.seed}/{cell.shard[0]}/{cell.property}/{cell.dtype}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def plan(
    backends: Mapping[Source, Capabilities],
    *,
    profile: Profile,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    dtypes: tuple[str, ...] = (),
    properties: tuple[str, ...] = (),
    max_examples: int | None = None,
) -> list[Plan]:
    """The cells that the backends' claims call for: by property, then dtype, so that backends follow one
    another on the same examples.
    """
    cells: list[Plan] = []
    for turn, prop in enumerate(PROPERTIES.values()):
        if properties and prop.name not in properties:
            continue
        of_property: list[Plan] = []
        for source, claims in backends.items():
            group = source.name if claims.compiles and claims.is_slow else source.framework
            at_defaults = profile.hurries and claims.compiles and claims.is_slow
            if at_defaults:
                claims = replace(claims, options=claims.options & {"many", "empty"})
            asked = [dtype for dtype in claims.dtypes if not dtypes or dtype in dtypes]
            n, minimum = _examples(prop, claims, profile, shard[1], max_examples)
            of_property.extend(
                Plan(prop.name, source, dtype, device, n, minimum, seed, shard, group, at_defaults)
                for dtype in _dtypes(prop, claims, profile, asked, turn)
            )
        cells.extend(sorted(of_property, key=lambda cell: cell.dtype))
    return cells


def _examples(prop: Property, claims: Capabilities, profile: Profile, shards: int, most: int | None) -> tuple[int, int]:
    """How many examples a cell gets, and how many at least have to run. A compiled step is cheap once it is
    there, so that a backend's cost, which is its compilations', leaves it four times the least.
    """
    least = profile.least
    if profile.hurries and (prop.is_long or (claims.is_slow and not claims.compiles)):
        least = 1
    elif claims.compiles and not prop.is_long:
        least *= 4
    n = max(least, round(profile.examples * prop.share / claims.cost))
    n = min(n, most or n)
    minimum = max(1, min(least, profile.least, n) // shards)
    return max(minimum, n // shards), minimum


def _dtypes(prop: Property, claims: Capabilities, profile: Profile, asked: list[str], turn: int) -> list[str]:
    """The dtypes in which a property is tried on a backend.

    What is dear (a backend that compiles or is slow) is tried in one of them: another from property to property,
    so that all get their share, but always the same where compilations take time that is not there. Then graphs
    are used again, and in the quick profile properties that need graphs of their own are left to the others.
    The quick profile tries large layers and trainings in the usual dtype, and what is not dear in one of 16 bit
    by turns, too: float64 differs from float32 in its constants alone.
    """
    concerned = [dtype for dtype in asked if prop.concerns(claims, dtype)]
    if not profile.spares or not concerned:
        return concerned
    usual = ["float32"] if "float32" in concerned else concerned[:1]
    if claims.compiles and profile.hurries:
        return usual if prop.uses_usual_graphs else []
    if prop.is_central:
        return concerned
    if claims.compiles and claims.is_slow:
        return usual
    if claims.compiles or claims.is_slow:
        return [concerned[turn % len(concerned)]]
    if profile.hurries:
        return usual + _narrow(prop, [dtype for dtype in concerned if dtype not in usual], turn)
    return concerned


def _narrow(prop: Property, others: list[str], turn: int) -> list[str]:
    """The 16-bit format that a property is tried in beside the usual dtype."""
    narrow = [dtype for dtype in others if FORMATS[dtype].numpy.itemsize == 2 and not prop.is_long]
    if prop.narrow in narrow:
        return [prop.narrow]
    return [narrow[turn % len(narrow)]] if narrow else []
