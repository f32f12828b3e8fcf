"""Time every path against its peers, in turns: a table, JSON, Markdown, a picture.

python -m benchmarks                          all of it, some ten minutes on two cores
python -m benchmarks --quick                  the main paths, under a minute; nothing is written
python -m benchmarks --set mix --path "SETAdam fused" --dtype bfloat16 --seconds 10
"""

import argparse
import gc
import sys
from typing import Any

from benchmarks import memory, report, training
from benchmarks.peers import BY_NAME, PEERS, Peer, compiles_many
from benchmarks.sets import BY_COUNT, BY_SIZE, SETS, Shapes, size
from benchmarks.timing import copy_bandwidth, in_turns

SCALED = ("SETAdam fused", "SETAdam fused=False")


def timed(peer: Peer, name: str, shapes: Shapes, dtype: str, seconds: float) -> dict[str, Any]:
    """One peer beside the one it is measured against. Two at a time, so that the memory of two is enough."""
    timing = in_turns(peer.make(shapes, dtype), BY_NAME[peer.against].make(shapes, dtype), seconds)
    gc.collect()
    about = {"set": name, "coordinates": size(shapes), "layers": len(shapes), "dtype": dtype}
    return about | {"path": peer.name, "ours": peer.ours, "against": peer.against} | timing.as_dict()


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=SETS, help="may be repeated; default: all")
    parser.add_argument("--path", action="append", choices=BY_NAME, help="may be repeated; default: all")
    parser.add_argument("--dtype", action="append", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=6, help="for each pair (default: 6)")
    parser.add_argument("--quick", action="store_true", help="no slow peers, half a second for each pair")
    parser.add_argument("--only-timings", action="store_true", help="no scaling, memory or training step")
    parser.add_argument("--write", metavar="NAME", help="write benchmarks/results/<date>-NAME.json, .md and .svg")
    parser.add_argument("--note", default="", help="on the conditions, for the record")
    asked = parser.parse_args()
    seconds = 0.5 if asked.quick else asked.seconds
    sets = {name: SETS[name] for name in asked.set or SETS}
    everything = not (asked.quick or asked.set or asked.path or asked.dtype or asked.only_timings)

    timings = []
    for dtype in asked.dtype or (("float32",) if asked.quick else ("float32", "float64", "bfloat16")):
        for name, shapes in sets.items():
            if dtype != "float32" and name != "mix" and not asked.dtype:
                continue
            for peer in PEERS:
                wanted = peer.name in asked.path if asked.path else not (asked.quick and peer.slow)
                if not wanted or peer.name == peer.against or peer.why_not(dtype) or compiles_many(peer, shapes):
                    continue
                print(f"{name}, {dtype}: {peer.name}", file=sys.stderr)
                timings.append(timed(peer, name, shapes, dtype, seconds))
    tables = [("A step, in units of its peer's", report.HEAD, report.rows(timings))]
    bandwidth = copy_bandwidth()
    results: dict[str, Any] = {"environment": report.environment(), "note": asked.note, "copy_GB_per_s": bandwidth}
    results["timings"] = timings

    if everything:
        results["scaling"] = [
            timed(BY_NAME[path], name, shapes, "float32", seconds / 4)
            for name, shapes in (BY_SIZE | BY_COUNT).items()
            for path in SCALED
            if BY_NAME[path].why_not("float32") is None
        ]
        tables.append(
            ("By size of a layer, and by number of layers of 1,000", report.HEAD, report.rows(results["scaling"]))
        )
        results["memory"] = [
            {"path": peer.name, **memory.of_step(peer.make(SETS["mix"], "float32"))}
            for peer in PEERS
            if peer.why_not("float32") is None and peer.needs != "jax" and "compiled" not in peer.name
        ]
        lines = [
            (x["path"], f"{x['peak_bytes'] / 4 / size(SETS['mix']):.4f}", str(x["operations"]))
            for x in results["memory"]
        ]
        head = ("path", "words a coordinate", "torch operations")
        tables.append(("Allocated in a step of the mix, and operations", head, lines))
        results["training"] = {name: x.as_dict() for name, x in training.compare(seconds).items()}
        about = {"set": "training step", "dtype": "float32", "against": "torch Adam fused"}
        lines = report.rows([about | {"path": name} | x for name, x in results["training"].items()])
        tables.append(("A whole training step of a transformer", report.HEAD, lines))

    print(f"A copy moves {bandwidth:.1f} GB/s on {results['environment']['threads']} threads.")
    for table in tables:
        report.show(*table)
    if asked.write:
        print(f"written: {report.save(results, tables, asked.write)}.json, .md, .svg")


if __name__ == "__main__":
    main()
