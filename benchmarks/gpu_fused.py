"""SETAdam(fused=True) against torch.optim.Adam(fused=True) on one GPU: `python -m benchmarks.gpu_fused`.

How the times are taken:

- A step is timed by CUDA events. Before the first event the device sleeps for twice the time that the host needs for
  the step, so that it never waits for the host between launches. The host's share stands apart, in its own column.
- Cold: a buffer of four times the L2 cache is read first. Warm: the same step was just taken. What the difference is
  depends on whether the layers fit the cache, so there are sizes that do and that do not.
- Peers take turns in one process, and a ratio is the median of the ratios of neighbours.
- Parameters of 16 bits have float32 moments here, and moments of 16 bits in torch's Adam. So the bytes that each has to
  move for a coordinate stand beside the ratio of times: the ratio of the bytes is what memory alone would give.
- The rate of each kernel is what it has to move by the time that the profiler saw, beside the rate of a copy.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from benchmarks.sets import KINDS, MODELS, Shapes, size
from setadam_torch import SETAdam

LAYERS: dict[str, Shapes] = {
    "one of 2^20": [(1 << 20,)],
    "one of 2^22": [(1 << 22,)],
    "one of 2^26": [(1 << 26,)],
    "25 M in 61 layers": KINDS["mix"],
    "GPT-2 small": MODELS["GPT-2 small"],
    "200 of 128 × 128": [(128, 128)] * 200,
    "200 of 100": [(100,)] * 200,
    "5,000 of 1,000": KINDS["many"],
}
OURS, PEER = "SETAdam", "torch's Adam"
Step = Callable[[], Any]
PEERS: dict[str, Callable[[Any], Any]] = {
    OURS: lambda params: SETAdam(params, fused=True),
    PEER: lambda params: torch.optim.Adam(params, fused=True),
}
COVER = 2  # times the host's time is slept
HEAD = (
    "layers",
    "dtype",
    "L2",
    "ms",
    f"ms, {PEER}",
    "ratio",
    "quartiles",
    "bytes",
    "ratio of bytes",
    "host µs",
    "Adam's",
)
KERNEL_HEAD = ("layers", "dtype", "kernel", "µs", "GB/s", "of a copy's")


def bytes_of_pass(param: int, moment: int) -> dict[str, int]:
    """Bytes for a coordinate that each pass of SETAdam has to move, by the beginning of its kernel's name, given the
    sizes of a parameter and of a moment.
    """
    return {"moments": param + 4 * moment, "descend": 2 * param + 2 * moment}


def bytes_of_adam(param: int, moment: int) -> int:
    """Bytes for a coordinate of a fused Adam: g, m, v and θ read, m, v and θ written."""
    return 3 * param + 4 * moment


def bytes_of(name: str, dtype: Any) -> int:
    """Bytes for a coordinate that a step of a peer has to move. torch's Adam keeps moments in the parameter's dtype."""
    wide = max(dtype.itemsize, 4)
    if name == PEER:
        return bytes_of_adam(dtype.itemsize, dtype.itemsize)
    return sum(bytes_of_pass(dtype.itemsize, wide).values())


class Device(Protocol):
    """What timing needs of a device."""

    def synchronize(self) -> None: ...

    def flush(self) -> None:
        """Fill the L2 cache with something else."""

    def sleep(self, seconds: float) -> None:
        """Let the device, not the host, wait."""

    def timed(self, step: Step) -> float:
        """Milliseconds on the device of what a step launches, when it has come to an end."""


class CUDA:
    """The current CUDA device."""

    def __init__(self) -> None:
        self._cache = torch.empty(
            4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda"
        )
        cycles = 10_000_000
        torch.cuda._sleep(cycles)
        self._cycles_a_second = cycles / (1e-3 * self.timed(lambda: torch.cuda._sleep(cycles)))

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def flush(self) -> None:
        self._cache.max()  # reading leaves nothing to be written back during the step

    def sleep(self, seconds: float) -> None:
        torch.cuda._sleep(int(seconds * self._cycles_a_second))

    def timed(self, step: Step) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)  # type: ignore[no-any-return]


def host_seconds(device: Device, step: Step, repeats: int = 30) -> float:
    """What a call costs the host, when the device has nothing to do."""
    spent = []
    for _ in range(repeats):
        device.synchronize()
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def in_turns(
    device: Device, steps: Mapping[str, Step], repeats: int, *, cold: bool, host: Mapping[str, float]
) -> dict[str, list[float]]:
    """Milliseconds on the device of each step, in turns. host: seconds that the host takes for each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            (device.flush if cold else step)()
            device.synchronize()
            device.sleep(COVER * host[name])
            times[name].append(device.timed(step))
    return times


def compared(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians, and the ratio of neighbours: its median and quartiles."""
    ratios = sorted(a / b for a, b in zip(times[OURS], times[PEER], strict=True))
    quarter = len(ratios) // 4
    return {
        "ms": {name: statistics.median(xs) for name, xs in times.items()},
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
    }


def copy_rate(device: Device, repeats: int) -> float:
    """GB/s read and written by a copy of 1 GiB: the roof for what is bound by memory."""
    source, target = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    times = []
    for _ in range(repeats):
        device.sleep(1e-4)
        times.append(device.timed(lambda: target.copy_(source)))
    return 2 * source.nbytes / (1e-3 * statistics.median(times)) / 1e9


def kernel_rates(
    events: Iterable[tuple[str, float]], coordinates: int, dtype: Any, roof: float
) -> list[dict[str, Any]]:
    """Of each kernel of some steps, given by name and µs: its median time, and, if it moves what a pass has to move,
    the rate and its share of a copy's.
    """
    times: dict[str, list[float]] = {}
    for name, micros in events:
        times.setdefault(name, []).append(micros)
    moved = bytes_of_pass(dtype.itemsize, max(dtype.itemsize, 4))
    found = []
    for name, xs in times.items():
        entry: dict[str, Any] = {"kernel": name, "us": statistics.median(xs)}
        of_pass = next((n for beginning, n in moved.items() if name.startswith(beginning)), None)
        if of_pass is not None:
            entry["GB_per_s"] = of_pass * coordinates / entry["us"] / 1e3
            entry["share_of_copy"] = entry["GB_per_s"] / roof
        found.append(entry)
    return found


def profiled(step: Step, repeats: int = 5) -> list[tuple[str, float]]:
    """The kernels of some steps: name and µs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            step()
        torch.cuda.synchronize()
    on_device = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [(event.name, event.device_time) for event in on_device]


def steps_of(shapes: Shapes, dtype: Any) -> dict[str, Step]:
    """A step of each peer, on tensors of its own."""
    steps = {}
    for name, make in PEERS.items():
        params = [nn.Parameter(torch.randn(s, device="cuda").to(dtype)) for s in shapes]
        for p in params:
            p.grad = torch.randn_like(p)
        steps[name] = make(params).step
    return steps


def layer_set(device: Device, shapes: Shapes, dtype: Any, repeats: int, roof: float) -> dict[str, Any]:
    """All figures of one set of layers in one dtype."""
    steps = steps_of(shapes, dtype)
    for step in steps.values():
        for _ in range(3):
            step()
    host = {name: host_seconds(device, step) for name, step in steps.items()}
    result: dict[str, Any] = {"coordinates": size(shapes), "layers": len(shapes)}
    result["host_us"] = {name: 1e6 * seconds for name, seconds in host.items()}
    result["bytes_a_coordinate"] = {name: bytes_of(name, dtype) for name in steps}
    for cache, cold in (("cold", True), ("warm", False)):
        result[cache] = compared(in_turns(device, steps, repeats, cold=cold, host=host))
    result["kernels"] = kernel_rates(profiled(steps[OURS]), size(shapes), dtype, roof)
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


def training_step(device: Device, repeats: int, batch: int = 16, length: int = 512) -> dict[str, Any]:
    """Forward, backward and step in bfloat16 autocast, a model and an optimizer of its own for each peer. Nothing
    covers the host's time here: it is part of what a user waits for.
    """
    steps: dict[str, Step] = {}
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
    parameters = sum(p.numel() for p in model.parameters())
    times = in_turns(device, steps, repeats, cold=False, host=dict.fromkeys(steps, 0.0))
    return {"parameters": parameters, **compared(times)}


def row(name: str, dtype: str, cache: str, found: Mapping[str, Any]) -> list[str]:
    """A line of the table of steps, as HEAD says."""
    ours, peer = found["bytes_a_coordinate"][OURS], found["bytes_a_coordinate"][PEER]
    low, high = found[cache]["ratio_quartiles"]
    times = [f"{found[cache]['ms'][who]:.4f}" for who in (OURS, PEER)]
    ratios = [f"{found[cache]['ratio']:.2f}", f"{low:.2f}–{high:.2f}", f"{ours} and {peer}", f"{ours / peer:.2f}"]
    return [name, dtype, cache, *times, *ratios, *(f"{found['host_us'][who]:.0f}" for who in (OURS, PEER))]


def kernel_rows(name: str, dtype: str, found: Mapping[str, Any]) -> list[list[str]]:
    """The lines of the table of kernels, as KERNEL_HEAD says."""
    lines = []
    for kernel in found["kernels"]:
        rate = [f"{kernel['GB_per_s']:.0f}", f"{kernel['share_of_copy']:.0%}"] if "GB_per_s" in kernel else ["", ""]
        lines.append([name, dtype, kernel["kernel"], f"{kernel['us']:.1f}", *rate])
    return lines


def tables(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The result as `benchmarks.gpu.report` shows it."""
    steps, kernels = [], []
    for key, found in result["layer_sets"].items():
        name, _, dtype = key.rpartition(", ")
        steps += [row(name, dtype, cache, found) for cache in ("cold", "warm")]
        kernels += kernel_rows(name, dtype, found)
    shown = [
        {"title": "a step", "head": list(HEAD), "rows": steps},
        {
            "title": f"its kernels; a copy moves {result['copy_GB_per_s']:.0f} GB/s",
            "head": list(KERNEL_HEAD),
            "rows": kernels,
        },
    ]
    if "training_step" in result:
        training = result["training_step"]
        low, high = training["ratio_quartiles"]
        line = [f"{training['parameters']:,}", f"{training['ratio']:.3f}", f"{low:.3f}–{high:.3f}"]
        head = ["parameters", "ratio", "quartiles"]
        shown.append({"title": "a whole training step of a transformer", "head": head, "rows": [line]})
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--report", type=Path, help="write the figures there, as JSON")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "gpu_fused.py needs a CUDA device, and this machine has none\n")
    device = CUDA()
    roof = copy_rate(device, asked.repeats)
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "l2_bytes": torch.cuda.get_device_properties().L2_cache_size,
        "python": platform.python_version(),
        "repeats": asked.repeats,
        "copy_GB_per_s": roof,
        "layer_sets": {},
    }
    for name, shapes in LAYERS.items():
        for dtype in (torch.float32, torch.bfloat16):
            key = f"{name}, {str(dtype).removeprefix('torch.')}"
            found = result["layer_sets"][key] = layer_set(device, shapes, dtype, asked.repeats, roof)
            print(f"{found['cold']['ratio']:6.3f} cold, {found['warm']['ratio']:6.3f} warm × {PEER}  {key}", flush=True)
            if asked.report:  # what is there if time ends
                asked.report.write_text(json.dumps({**result, "tables": tables(result)}))
    result["training_step"] = training_step(device, asked.repeats)
    print(f"{result['training_step']['ratio']:6.3f} × {PEER}  a training step")
    if asked.report:
        asked.report.write_text(json.dumps({**result, "tables": tables(result)}))


if __name__ == "__main__":
    main()
