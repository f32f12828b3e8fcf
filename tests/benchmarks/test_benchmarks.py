"""What the benchmarks time, and that a run writes its files. How long anything takes decides nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
from benchmarks import report, sets  # noqa: E402


@pytest.mark.parametrize(
    ("name", "tensors", "coordinates"),
    [("GPT-2 small", 148, 124_439_808), ("ResNet-50", 161, 25_557_032), ("ViT-S/16", 152, 22_050_664)],
)
def test_models_have_the_published_numbers_of_parameters(name, tensors, coordinates):
    assert len(sets.MODELS[name]) == tensors
    assert sets.size(sets.MODELS[name]) == coordinates


def timing(threads, ms, peer):
    about = {"set": "mix", "dtype": "float32", "path": "SETAdam", "against": "Adam", "threads": threads}
    return about | {"ms": ms, "ms_peer": peer, "ratio": ms / peer, "ratio_low": 1.0, "ratio_high": 2.0}


def test_numbers_of_threads_stand_side_by_side():
    _, head, lines = report.by_threads([timing(2, 3.0, 2.0), timing(1, 4.5, 4.0)])
    assert [dict(zip(head, line, strict=True)) for line in lines] == [
        {"layers": "mix", "dtype": "float32", "path": "SETAdam", "ms, 1": "4.500", "ms, 2": "3.000"}
        | {"ratio, 1": "1.12", "ratio, 2": "1.50", "gain": "1.50", "peer's gain": "2.00"}
    ]
    assert report.by_threads([timing(2, 3.0, 2.0)])[2] == []


def run(*arguments, prelude=""):
    """As `python -m benchmarks` runs, in a process of its own, since it sets the number of threads."""
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}\n{prelude}\nfrom benchmarks.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_run_writes_what_it_found(tmp_path):
    prelude = f"import pathlib, benchmarks.report as r; r.RESULTS = pathlib.Path({str(tmp_path)!r})"
    few = ["--set", "tiny", "--path", "SETAdam fused=False", "--threads", "1", "--seconds", "0.01"]
    run(*few, "--write", "few", "--note", "a trial", prelude=prelude)
    (found,) = tmp_path.glob("*-few.json")
    results = json.loads(found.read_text())
    (line,) = results["timings"]
    assert (line["set"], line["layers"], line["threads"], line["against"]) == ("tiny", 200, 1, "torch Adam fused")
    assert results["note"] in found.with_suffix(".md").read_text()


def test_the_plan_has_every_set_and_equal_threads_for_the_models():
    planned = run("--plan").splitlines()
    assert all(any(line.startswith(f"{name}, ") for line in planned) for name in sets.SETS)
    by_count = {}
    for line in planned[:-1]:
        name, _, rest = line.partition(", float32, ")
        if name in sets.MODELS:
            count, path = rest.split(" threads: ")
            by_count.setdefault(count, set()).add((name, path))
    assert "1" in by_count
    assert all(found == by_count["1"] for found in by_count.values())
