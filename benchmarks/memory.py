"""What one step allocates and how many operations it launches, as torch's profiler and tracemalloc see it."""

import tracemalloc

from torch.profiler import ProfilerActivity, profile

from benchmarks.peers import Step


def of_step(step: Step) -> dict[str, int]:
    """``peak_bytes`` beyond what was there before, of torch or of NumPy; ``operations``: calls of torch's
    own operations, 0 where none is used. XLA's temporaries are seen by neither.
    """
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    live = peak = operations = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
        operations += event.name().startswith("aten::")
    tracemalloc.start()
    step()
    peak = max(peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return {"peak_bytes": peak, "operations": operations}
