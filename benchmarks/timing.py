"""Two steps in turns in one process, so that whatever else the machine does befalls both alike."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.peers import Step

WARM_UP = 3  # steps that are not counted: compilation, first touch of memory


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a step; its ratio to the peer's step next to it: median and quartiles."""

    ms: float
    ms_peer: float
    ratio: float
    ratio_low: float
    ratio_high: float
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def in_turns(step: Step, peer: Step, seconds: float, most: int = 400) -> Timing:
    """Time both for about so many seconds in all, five pairs at least. Who goes first alternates."""
    for _ in range(WARM_UP):
        step()
        peer()
    spent: tuple[list[float], list[float]] = [], []
    end = time.perf_counter() + seconds
    while len(spent[0]) < 5 or (time.perf_counter() < end and len(spent[0]) < most):
        for i in (0, 1) if len(spent[0]) % 2 else (1, 0):
            start = time.perf_counter()
            (step, peer)[i]()
            spent[i].append(time.perf_counter() - start)
    own, other = (1e3 * np.array(x) for x in spent)
    low, middle, high = np.quantile(own / other, [0.25, 0.5, 0.75])
    return Timing(float(np.median(own)), float(np.median(other)), float(middle), float(low), float(high), len(own))


def copy_bandwidth(words: int = 1 << 25, repeats: int = 15) -> float:
    """GB/s that a copy of float32 moves, reading and writing, on all threads: the best of its repeats."""
    import torch

    source, target = torch.ones(words), torch.zeros(words)
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        spent.append(time.perf_counter() - start)
    return 2 * 4 * words / min(spent) / 1e9
