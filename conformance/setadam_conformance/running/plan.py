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
    """How much is tried. A property gets `examples` × its share / the backend's cost examples."""

    name: str
    examples: int
    least: int  # examples of any property, however expensive
    spares: bool = True  # expensive properties and backends are tried in one dtype, not in all
    hurries: bool = False  # no graph is compiled for one property alone; slow compilers get one setting


PROFILES = {
    "quick": Profile("quick", 12, 2, hurries=True),
    "default": Profile("default", 40, 2),
    "deep": Profile("deep", 4000, 40, spares=False),
}


@dataclass(frozen=True)
class Plan:
    """One cell to run. It is sent to worker processes, so it holds names and numbers, not objects."""

    property: str
    source: Source
    dtype: str
    device: str
    examples: int
    minimum: int
    seed: int
    shard: tuple[int, int]
    # Cells that are best run by one process: those of a framework, or of a backend whose graphs take seconds.
    group: str = ""
    # All examples have the default hyperparameters, so that a slow compiler makes one graph.
    at_defaults: bool = False
    # For a property whose examples are rows of the table of dimensions: 1 if each class has to occur, 2 if each pair;
    # and the dtypes that share the rows.
    strength: int = 0
    among: tuple[str, ...] = ()


def seed_of(cell: Plan) -> int:
    """The seed of the cell's examples: the same for all backends."""
    text = f"{cell.seed}/{cell.shard[0]}/{cell.property}/{cell.dtype}"
    if cell.strength:  # all dtypes and shards have parts of one design
        text = f"{cell.seed}/{cell.property}"
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
    about: str | None = None,
    max_examples: int | None = None,
) -> list[Plan]:
    """The cells to run for backends with these claims.

    They are ordered by property, then dtype, so that all backends run the same examples one after another.
    """
    cells: list[Plan] = []
    for turn, prop in enumerate(PROPERTIES.values()):
        if (properties and prop.name not in properties) or (about and prop.about != about):
            continue
        of_property: list[Plan] = []
        for source, claims in backends.items():
            group = source.name if claims.compiles and claims.is_slow else source.framework
            at_defaults = profile.hurries and claims.compiles and claims.is_slow
            if at_defaults:
                claims = replace(claims, options=claims.options & {"many", "empty"})
            asked = [dtype for dtype in claims.dtypes if not dtypes or dtype in dtypes]
            n, minimum = _examples(prop, claims, profile, shard[1], max_examples)
            within = _dtypes(prop, claims, profile, asked, turn)
            strength = 0
            if prop.covers:  # the design decides how many examples there are
                strength, n, minimum = 1 if claims.compiles or claims.is_slow else 2, max_examples or 10**6, 1
            of_property.extend(
                Plan(
                    prop.name,
                    source,
                    dtype,
                    device,
                    n,
                    minimum,
                    seed,
                    shard,
                    group,
                    at_defaults,
                    strength,
                    tuple(within),
                )
                for dtype in within
            )
        cells.extend(sorted(of_property, key=lambda cell: cell.dtype))
    return cells


def _examples(prop: Property, claims: Capabilities, profile: Profile, shards: int, most: int | None) -> tuple[int, int]:
    """The number of examples of a cell, and the minimum that must run.

    A compiled step is cheap once it is compiled. Compilations make up the cost of such a backend, so it gets at least
    four times the least number.
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

    A backend that compiles or is slow is tried in one of them. That dtype changes from property to property, so that
    each has its turn. Where compilation is slow it is always the same one, so that graphs are reused; and the quick
    profile leaves out the properties that would need graphs of their own.

    The quick profile tries large layers and recorded training in the usual dtype only. It tries the other properties in
    the usual dtype and in one 16-bit format, in turn. It leaves out float64, which differs from float32 only in its
    constants.
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
    """The 16-bit format in which a property is tried in addition to the usual dtype."""
    narrow = [dtype for dtype in others if FORMATS[dtype].numpy.itemsize == 2 and not prop.is_long]
    if prop.narrow in narrow:
        return [prop.narrow]
    return [narrow[turn % len(narrow)]] if narrow else []
