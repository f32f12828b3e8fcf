"""Starts the processes of a test, and collects what they found. A deadlock fails; it does not hang.

`run` is for the test; the lower half is the program that each process runs:
`python launch.py RANK WORLD FOLDER CHECK…`.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path


def run(world, folder, checks, timeout=300):
    """Run checks, each a "module.function" of a module beside this file, one after the other in `world` processes.

    Returns for each what went wrong, or None. Where a check fails in one process the group is lost, since
    the others wait for it: the checks that follow run in a new one.
    """
    found, left, tries = {}, list(checks), 0
    while left:
        reports, outputs, _ = launch(world, folder / f"try{tries}", left, timeout)
        found |= {check: _verdict(check, reports, outputs) for check in left}
        failed = next((i for i, check in enumerate(left) if found[check]), len(left))
        left, tries = left[failed + 1 :], tries + 1
    return found


def launch(world, folder, checks, timeout):
    """One group of processes: what each reports, their output, and their exit codes."""
    folder.mkdir(parents=True)
    # One thread a process, no search for other hosts; Triton's kernels on the CPU.
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TRITON_INTERPRET": "1"}
    files = [(folder / f"out{rank}").open("w+") for rank in range(world)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(rank), str(world), str(folder), *checks],
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        for rank, file in enumerate(files)
    ]
    end = time.monotonic() + timeout
    try:
        for process in processes:
            process.wait(max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process, file in zip(processes, files, strict=True):
            process.kill()
            process.wait()
            file.close()
    outputs = [(folder / f"out{rank}").read_text()[-2000:] for rank in range(world)]
    return [_read(folder / f"report{rank}") for rank in range(world)], outputs, [p.returncode for p in processes]


def _read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _verdict(check, reports, outputs):
    """What each process says of a check that one of them did not pass; None if all did."""
    said = [[entry["said"] for entry in report if entry["check"] == check] for report in reports]
    if all(entry == ["passed"] for entry in said):
        return None
    parts = [f"rank {rank}: {''.join(x) or 'did not finish it'}\n{outputs[rank]}" for rank, x in enumerate(said)]
    return "\n".join(parts)


def _main(rank, world, folder, checks):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=100),  # a busy machine may leave a process without its turn for long,
    )
    with (folder / f"report{rank}").open("w") as report:
        for check in checks:
            torch.manual_seed(0)
            start = time.monotonic()
            module, _, function = check.partition(".")
            try:
                getattr(import_module(module), function)(folder)
                dist.barrier()
                said = "passed"
            except Exception:
                said = traceback.format_exc()
            report.write(json.dumps({"check": check, "said": said, "seconds": time.monotonic() - start}) + "\n")
            report.flush()
            if said != "passed":
                os._exit(1)  # at once: the others learn of it by their broken connections
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
