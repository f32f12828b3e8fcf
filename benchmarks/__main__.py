"""Time every path against its peers, in turns: tables, JSON, Markdown, a picture.

python -m benchmarks                          all of it, some half an hour on two cores
python -m benchmarks --quick                  the main paths, under a minute
python -m benchmarks --set mix --path "SETAdam fused" --dtype bfloat16 --threads 1 --seconds 10

All of it means: every path on the sets that differ in kind, with all threads; the fast paths on these, on the layers of
real models and on single layers of all sizes, with 1, 2, 4, 8 and all threads; what a step allocates; and the training
step of a transformer. A path and its peer always have equally many threads. An option narrows this to what it names.
"""

import argparse
import gc
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from benchmarks import memory, report, training
from benchmarks.peers import BY_NAME, PEERS, Peer, use_threads
from benchmarks.sets import KINDS, SCALING, SETS, size
from benchmarks.timing import copy_bandwidth, in_turns

MOST = torch.get_num_threads()
THREADS = [n for n in (1, 2, 4, 8) if n < MOST] + [MOST]
DTYPES = ["float32", "float64", "bfloat16"]


class Pair(NamedTuple):
    """A path to be timed beside its peer."""

    threads: int
    dtype: str
    set: str
    peer: Peer
    seconds: float

    def __str__(self) -> str:
        return f"{self.set}, {self.dtype}, {self.threads} threads: {self.peer.name}"

    def time(self) -> dict[str, Any]:
        """Two at a time, so that the memory of two is enough."""
        use_threads(self.threads)
        shapes, peer = SETS[self.set], self.peer
        timing = in_turns(peer.make(shapes, self.dtype), BY_NAME[peer.against].make(shapes, self.dtype), self.seconds)
        gc.collect()
        about = {"set": self.set, "coordinates": size(shapes), "layers": len(shapes), "dtype": self.dtype}
        about |= {"threads": self.threads, "path": peer.name, "ours": peer.ours, "against": peer.against}
        return about | timing.as_dict()


def pairs(asked: argparse.Namespace) -> Iterator[Pair]:
    """What to time, the pairs with most threads first."""
    seconds = 0.5 if asked.quick else asked.seconds
    for threads in asked.threads or ([MOST] if asked.quick else THREADS[::-1]):
        for dtype in asked.dtype or (["float32"] if asked.quick else DTYPES):
            for name in asked.set or (KINDS if asked.quick else SETS):
                if dtype != "float32" and not asked.dtype and (name != "mix" or threads < MOST):
                    continue
                for peer in PEERS:
                    if peer.why_not(dtype, len(SETS[name]), threads == MOST) or peer.name == peer.against:
                        continue
                    usual = not peer.slow or (not asked.quick and threads == MOST and (name in KINDS or asked.set))
                    if peer.name in asked.path if asked.path else usual:
                        yield Pair(threads, dtype, name, peer, seconds / 4 if name in SCALING else seconds)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=SETS, help="may be repeated; default: all")
    parser.add_argument("--path", action="append", choices=BY_NAME, help="may be repeated; default: all")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: float32; mix in all three")
    parser.add_argument(
        "--threads", action="append", type=int, choices=range(1, MOST + 1), metavar="N", help=f"default: {THREADS}"
    )
    parser.add_argument("--seconds", type=float, default=6, help="for each pair (default: 6; a quarter for one size)")
    parser.add_argument("--quick", action="store_true", help="no slow peers, half a second for each pair")
    parser.add_argument("--only-timings", action="store_true", help="no memory or training step")
    parser.add_argument("--plan", action="store_true", help="say what would be timed, and for how long")
    parser.add_argument("--write", metavar="NAME", help="write benchmarks/results/<date>-NAME.json, .md and .svg")
    parser.add_argument("--note", default="", help="on the conditions, for the record")
    return parser.parse_args()


def main() -> None:
    """Parse, measure, report."""
    asked = options()
    planned = list(pairs(asked))
    minutes = sum(pair.seconds for pair in planned) / 60
    if asked.plan:
        for pair in planned:
            print(pair)
        print(f"{len(planned)} pairs, {minutes:.0f} minutes, and what it takes to compile and to make the layers")
        return

    timings = []
    for i, pair in enumerate(planned):
        print(f"{i + 1}/{len(planned)}: {pair}", file=sys.stderr)
        timings.append(pair.time())
    use_threads(MOST)
    bandwidth = copy_bandwidth()
    results: dict[str, Any] = {"environment": report.environment(), "note": asked.note, "copy_GB_per_s": bandwidth}
    results["timings"] = timings
    tables = report.of_timings(timings)
    if not (asked.quick or asked.set or asked.path or asked.dtype or asked.threads or asked.only_timings):
        results["memory"] = [
            {"path": peer.name, **memory.of_step(peer.make(KINDS["mix"], "float32"))}
            for peer in PEERS
            if peer.why_not("float32") is None and peer.needs != "jax" and "compiled" not in peer.name
        ]
        tables.append(report.of_memory(results["memory"], size(KINDS["mix"])))
        results["training"] = training.compare(asked.seconds)
        tables.append(("A whole training step of a transformer", report.HEAD, report.rows(results["training"])))

    print(f"A copy moves {bandwidth:.1f} GB/s on {MOST} threads.")
    for table in tables:
        report.show(*table)
    if asked.write:
        print(f"written: {report.save(results, tables, asked.write)}.json, .md, .svg")


if __name__ == "__main__":
    main()
