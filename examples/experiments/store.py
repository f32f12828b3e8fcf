"""Runs and their results, in a CSV file from which an interrupted study continues."""

import csv
import json
import multiprocessing
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from training import Run, train

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = tomllib.loads((HERE / "config.toml").read_text())

Results = dict[str, dict[str, float]]


def key(run: Run) -> str:
    """Everything that determines the result of a run, as one line of JSON."""
    task, training = CONFIG["tasks"][run.task], CONFIG["training"]
    return json.dumps({**run._asdict(), "settings": dict(run.settings), "how": {**training, **task}}, sort_keys=True)


def run_all(runs: Iterable[Run], file: Path, jobs: int, title: str) -> Results:
    """The results of all runs by `key`, from the file, or from a new run that is added to the file.

    Each result is written when its run ends, so a study that is stopped loses only unfinished runs.
    """
    done = read(file)
    missing = [run for run in dict.fromkeys(runs) if key(run) not in done]
    calls = [(run, CONFIG["tasks"][run.task], CONFIG["training"]) for run in missing]
    for (run, *_), result in in_parallel(train, calls, jobs, title):
        done[key(run)] = result
        _append(file, key(run), result)
    return done


def in_parallel(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], jobs: int, title: str
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The arguments and the result of each call when it ends, in several processes, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        bar = progress.add_task(title, total=len(calls))
        futures = {pool.submit(function, *arguments): arguments for arguments in calls}
        for future in as_completed(futures):
            yield futures[future], future.result()
            progress.advance(bar)


def read(file: Path) -> Results:
    """The results in the file. An incomplete last line is removed, so that its run is repeated."""
    if not file.exists():
        return {}
    whole, end, cut = file.read_text().rpartition("\n")
    if cut:
        file.write_text(whole + end)
    rows = list(csv.DictReader(whole.splitlines()))
    return {row.pop("run"): {name: float(x) for name, x in row.items()} for row in rows}


def _append(file: Path, run: str, result: dict[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    row = {"run": run, **result}
    with file.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, row, lineterminator="\n")
        if file.stat().st_size == 0:
            writer.writeheader()
        writer.writerow(row)
