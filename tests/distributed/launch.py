"""Starts the processes of a test, and collects what they found. A deadlock fails; it does not hang.

`run` is for the test; the lower half is the program that each process runs:
`python launch.py MODULE RANK WORLD FOLDER CHECK…`.
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


def run(module, world, folder, checks, timeout=100):
    """Run the named functions of a module beside this file, one after the other, in `world` processes.

    Returns for each what went wrong, or None; and the processes' exit codes. When a check fails in one
    process the group is lost, since the others wait for it: the checks that follow have not run.
    """
    # One thread a process, and no search for other hosts.
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": ""}
    command = [sys.executable, str(Path(__file__).resolve()), module]
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder), *checks],
            env=env,
            stdout=(folder / f"out{rank}").open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    end = time.monotonic() + timeout
    try:
        for process in processes:
            process.wait(max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
    reports = [_read(folder / f"report{rank}") for rank in range(world)]
    return {check: _verdict(check, reports, folder) for check in checks}, [p.returncode for p in processes]


def _read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _verdict(check, reports, folder):
    """What each process says of a check that one of them did not pass; None if all did."""
    said = [[entry["said"] for entry in report if entry["check"] == check] for report in reports]
    if all(entry == ["passed"] for entry in said):
        return None
    outputs = [(folder / f"out{rank}").read_text()[-2000:] for rank in range(len(reports))]
    parts = [f"rank {rank}: {entry or 'did not finish it'}\n{outputs[rank]}" for rank, entry in enumerate(said)]
    return "\n".join(parts).replace("\\n", "\n")


def _main(module, rank, world, folder, checks):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=40),
    )
    checks_of = import_module(module)
    with (Path(folder) / f"report{rank}").open("w") as report:
        for check in checks:
            torch.manual_seed(0)
            start = time.monotonic()
            try:
                getattr(checks_of, check)(Path(folder))
                dist.barrier()
                said = "passed"
            except Exception:
                said = traceback.format_exc()
            entry = {"check": check, "said": said, "seconds": time.monotonic() - start}
            report.write(json.dumps(entry) + "\n")
            report.flush()
            if said != "passed":
                sys.stderr.write(said)
                sys.stderr.flush()
                os._exit(1)  # at once: the others learn of it by their broken connections
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
