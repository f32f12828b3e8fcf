"""SETAdam(fused=True) against torch.optim.Adam(fused=True) on one GPU: `python benchmarks/gpu_fused.py`.

It has not been run yet: no machine with a GPU was at hand when it was written, and no figure is claimed.

Times are CUDA events around steps whose launches the host has queued ahead, so that they are the GPU's;
the host's share shows apart, in `host_us`. Peers are interleaved in one process, and ratios are medians of
ratios of neighbours. Bytes are those that the algorithm must move: 9 words a coordinate in float32, 7 for
Adam. The result goes to benchmarks/results/, as JSON with date, GPU and versions.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from setadam_torch import SETAdam

RESULTS = Path(__file__).parent / "results"
MIX = [(512, 512)] * 36 + [(2048, 512)] * 12 + [(2048,)] * 12 + [(5600, 512)]  # 25 M in 61 layers
LAYERS: dict[str, list[tuple[int, ...]]] = {
    "one matrix of 64 M": [(8192, 8192)],
    "25 M in 61 layers": MIX,
    "one layer of 3 M, which the L2 cache holds": [(3 << 20,)],
    "200 layers of 16 k": [(128, 128)] * 200,
    "200 layers of 100": [(100,)] * 200,
    "5,000 layers of 1,000": [(1000,)] * 5000,
}
PEERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "setadam": lambda params: SETAdam(params, fused=True),
    "adam": lambda params: torch.optim.Adam(params, fused=True),
}


def interleaved(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds on the GPU of each step, in turns. A long kernel goes ahead, so that the GPU does not
    wait for the host between the launches of a step.
    """
    ballast = torch.empty(1 << 28, device="cuda", dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(repeats):
        for name, step in steps.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            for _ in range(4):
                ballast.zero_()
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return times


def host_microseconds(step: Callable[[], Any], repeats: int = 50) -> float:
    """What a call costs the host, the GPU having nothing to wait for."""
    spent = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        spent.append(1e6 * (time.perf_counter() - start))
    return statistics.median(spent)


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    ratios = sorted(a / b for a, b in zip(times["setadam"], times["adam"], strict=True))
    quarter = len(ratios) // 4
    return {
        "ms": {name: statistics.median(xs) for name, xs in times.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
    }


def copy_bandwidth(repeats: int) -> float:
    """Bytes a second read and written by a copy of 1 GiB: the roof for what is bound by memory."""
    source, target = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    times = interleaved({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    return 2 * source.nbytes / (1e-3 * statistics.median(times))


def layer_set(shapes: list[tuple[int, ...]], dtype: Any, repeats: int, roof: float) -> dict[str, Any]:
    steps = {}
    for name, make in PEERS.items():
        params = [nn.Parameter(torch.randn(s, device="cuda").to(dtype)) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        steps[name] = make(params).step
    result = summary(interleaved(steps, repeats))
    result["host_us"] = {name: host_microseconds(step) for name, step in steps.items()}
    if dtype == torch.float32:
        moved = 9 * 4 * sum(torch.Size(s).numel() for s in shapes)
        result["share_of_copy_bandwidth"] = moved / (1e-3 * result["ms"]["setadam"]) / roof
    return result


class Transformer(nn.Module):
    """A decoder of 100 M parameters, as small language models are."""

    def __init__(self, vocabulary: int = 16384, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        block = nn.TransformerEncoderLayer(width, 12, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.blocks(self.embed(tokens), mask=mask, is_causal=True))


def training_step(repeats: int, batch: int = 16, length: int = 512) -> dict[str, Any]:
    """Forward, backward and step in bfloat16 autocast, a model and an optimizer of its own for each peer."""
    steps = {}
    for name, make in PEERS.items():
        torch.manual_seed(0)
        model = Transformer().cuda()
        optimizer = make(model.parameters())
        tokens = torch.randint(16384, (batch, length + 1), device="cuda")

        def step(model: nn.Module = model, optimizer: Any = optimizer, tokens: torch.Tensor = tokens) -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(tokens[:, :-1])
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()

        steps[name] = step
    size = sum(p.numel() for p in model.parameters())
    return {"parameters": size, **summary(interleaved(steps, repeats))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        parser.exit(1, "gpu_fused.py needs a CUDA device, and this machine has none\n")
    import triton

    properties = torch.cuda.get_device_properties(0)
    roof = copy_bandwidth(repeats)
    sets: dict[str, Any] = {}
    for name, shapes in LAYERS.items():
        for dtype in (torch.float32, torch.bfloat16):
            key = f"{name}, {str(dtype).removeprefix('torch.')}"
            sets[key] = layer_set(shapes, dtype, repeats, roof)
            print(f"{sets[key]['ratio']:6.3f} × Adam(fused=True)  {key}", flush=True)
    training = training_step(repeats)
    print(f"{training['ratio']:6.3f} × Adam(fused=True)  training step of {training['parameters']:,} parameters")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": properties.name,
        "l2_bytes": properties.L2_cache_size,
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()},
        "repeats": repeats,
        "copy_bytes_per_second": roof,
        "layer_sets": sets,
        "training_step": training,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"gpu_fused-{properties.name.replace(' ', '-')}-{result['date'][:10]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
