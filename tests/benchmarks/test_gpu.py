"""`make gpu` with a stand-in for the device: what it runs, what it says of parts that pass, fail, hang or are not
there, and the arithmetic of its figures. No figure here is a GPU's.
"""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
from benchmarks.gpu import parts, report, running  # noqa: E402
from benchmarks.gpu.__main__ import main  # noqa: E402
from benchmarks.gpu.parts import PARTS, Part  # noqa: E402
from benchmarks.gpu.running import ABSENT, FAILED, NOT_RUN, PASSED  # noqa: E402

DEVICE = "Stand-In 9000"


def python(name, code, *needs, seconds=60, tests=False):
    return Part(name, (sys.executable, "-c", code, parts.REPORT, parts.RANKS), needs, seconds, tests)


def outcome(part, devices=1, seconds=60):
    return running.run(part, devices, seconds)


FIGURES = """
import json, sys
table = {"title": "figures", "head": ["what", "GB/s"], "rows": [["a | b", "3"]]}
json.dump({"ranks": sys.argv[2], "tables": [table]}, open(sys.argv[1], "w"))
"""


def test_a_run_reports_each_part_by_itself(tmp_path, capsys):
    some = [
        python("good", FIGURES),
        python("bad", "print('first'); raise SystemExit('the end')"),
        python("lacking", "", "compute-sanitizer-of-nobody"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "TOOLS", ("compute-sanitizer-of-nobody",))
        assert main(["--folder", str(tmp_path)], some, [DEVICE, DEVICE]) == 1
    said = capsys.readouterr().out
    assert "1 passed, 1 failed, 1 not there, 0 not run" in said
    assert "2 CUDA devices" in said
    (written,) = tmp_path.glob("*-stand-in-9000.json")
    results = json.loads(written.read_text())
    assert [(x["name"], x["status"]) for x in results["parts"]] == [
        ("good", PASSED),
        ("bad", FAILED),
        ("lacking", ABSENT),
    ]
    assert results["parts"][0]["data"]["ranks"] == "2"
    assert results["parts"][1]["words"] == "exit code 1: the end"
    assert results["parts"][2]["words"] == "compute-sanitizer-of-nobody is not on the path"
    assert results["summary"] == {PASSED: 1, FAILED: 1, ABSENT: 1, NOT_RUN: 0}
    page = written.with_suffix(".md").read_text()
    assert f"2 × {DEVICE}" in page
    assert "| a \\| b | 3 |" in page
    assert "first\nthe end" in page
    assert str(ROOT) not in page


def test_all_is_well_if_what_is_there_passes(tmp_path):
    assert main(["--folder", str(tmp_path)], [python("good", "")], [DEVICE]) == 0


def test_without_a_device_it_ends_well_and_writes_nothing(tmp_path, capsys):
    assert main(["--folder", str(tmp_path)], PARTS, []) == 0
    said = capsys.readouterr().out
    assert all(any(line.startswith(part.name) and ABSENT in line for line in said.splitlines()) for part in PARTS)
    assert f"0 passed, 0 failed, {len(PARTS)} not there" in said
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    found = outcome(python("hangs", code), seconds=1.5)
    assert (found.status, found.words) == (FAILED, "took longer than 2 s")
    assert "begun" in found.output or found.output == ""  # a slow machine may not have begun
    assert found.seconds < 4
    assert not mark.exists()


def test_what_a_part_wrote_before_its_time_was_over_is_kept():
    found = outcome(python("slow", f"{FIGURES}\nimport time; sys.stdout.flush(); time.sleep(60)"), seconds=3)
    assert found.status == FAILED
    assert found.data == {} or found.data["ranks"] == "1"  # nothing yet, on a very slow machine


def test_a_half_written_file_of_figures_fails_its_part_alone():
    found = outcome(python("half", "import sys; open(sys.argv[1], 'w').write('{\"tables\": [')"))
    assert (found.status, found.data) == (FAILED, {})
    assert "figures" in found.words


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "...\n5 passed, 2 skipped in 3.1s", (PASSED, "5 passed, 2 skipped in 3.1s")),
        (0, "SKIPPED [2] a.py:3: needs two devices\n2 skipped in 1s", (ABSENT, "2 skipped in 1s: needs two devices")),
        (1, "FAILED a.py\n1 failed, 5 passed in 3s", (FAILED, "1 failed, 5 passed in 3s")),
        (5, "7 deselected in 1s", (FAILED, "7 deselected in 1s")),
        (-9, "", (FAILED, "")),
    ],
)
def test_tests_pass_only_if_one_of_them_did(code, output, expected):
    assert running.judged(python("tests", "", tests=True), code, output) == expected


def test_time_that_is_over_leaves_parts_that_are_not_run():
    now, given = [0.0], []

    def run(part, devices, seconds):
        given.append(seconds)
        now[0] += 400
        return running.Outcome(part.name, PASSED, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run", run)
        some = [python(str(i), "", seconds=500) for i in range(4)]
        found = running.run_all(some, 1, 1000, clock=lambda: now[0])
    assert [x.status for x in found] == [PASSED, PASSED, PASSED, NOT_RUN]
    assert given == [500, 500, 200]


def test_the_parts_are_those_that_were_asked_for_and_end_in_time():
    assert parts.SECONDS < 20 * 60
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    for words in (("tests", "Triton"), ("tests", "CuPy"), ("tests", "torch"), ("tests", "JAX"), ("tests", "optimizer")):
        assert any(all(word in name for word in words) for name in names)
    for tool in ("memcheck", "racecheck"):
        assert {name for name in names if tool in name} == {
            f"compute-sanitizer {tool}: {x}" for x in ("triton", "cupy")
        }
    assert {name for name in names if name.startswith("kit")} == {"kit: torch", "kit: cupy", "kit: jax"}
    assert all("cuda:0" in part.command for part in PARTS if part.name.startswith("kit"))
    assert any(name.startswith("benchmarks") for name in names)
    assert sum(name.startswith("FSDP2") for name in names) == 2


@pytest.mark.parametrize("part", [part for part in PARTS if part.tests], ids=lambda part: part.name)
def test_parts_of_tests_have_tests_that_are_marked(part):
    for name in (x for x in part.command if x.startswith("tests/")):
        path = ROOT / name
        files = [path] if path.suffix else list(path.rglob("*.py"))
        assert any("mark.gpu" in file.read_text() for file in files), name


def test_what_parts_need_is_known():
    known = {*parts.NEEDS, *parts.TOOLS}
    assert all(set(part.needs) <= known for part in PARTS)
    assert running.absent("pytest") is None
    assert running.absent("compute-sanitizer") in (None, "compute-sanitizer is not on the path")


def test_a_word_chooses_parts(capsys):
    assert main(["--only", "kit"], PARTS, []) == 0
    assert "3 not there" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "no such part"], PARTS, [])


def test_the_table_is_aligned():
    assert report.text(("a", "b"), [("xyz", "1"), ("", "22")]).splitlines() == [
        "a    b",
        "───  ──",
        "xyz  1",
        "     22",
    ]


class TestFused:
    """`benchmarks.gpu_fused`, the part that is arithmetic and order."""

    @pytest.fixture(autouse=True)
    def fused(self):
        pytest.importorskip("torch")
        from benchmarks import gpu_fused

        self.fused = gpu_fused

    def test_bytes_are_words_times_their_sizes(self):
        """9 words and 7 in float32; with 16-bit parameters, float32 moments here and 16-bit ones in torch's Adam."""
        import torch

        ours, peer = self.fused.OURS, self.fused.PEER
        assert [self.fused.bytes_of(x, torch.float32) for x in (ours, peer)] == [4 * 9, 4 * 7]
        assert [self.fused.bytes_of(x, torch.float64) for x in (ours, peer)] == [8 * 9, 8 * 7]
        # g, and m and v twice; m, v, and θ twice
        assert self.fused.bytes_of(ours, torch.bfloat16) == (2 + 4 * 4) + (2 * 4 + 2 * 2)
        assert self.fused.bytes_of(peer, torch.bfloat16) == 2 * 7

    @pytest.mark.parametrize("cold", [True, False])
    def test_the_device_sleeps_twice_the_hosts_time_after_the_cache_is_as_asked(self, cold):
        done = []

        class Device:
            synchronize = staticmethod(lambda: done.append("wait"))
            flush = staticmethod(lambda: done.append("flush"))
            sleep = staticmethod(lambda seconds: done.append(seconds))

            @staticmethod
            def timed(step):
                done.append("begin")
                step()
                done.append("end")
                return 1.0

        steps = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
        times = self.fused.in_turns(Device(), steps, 2, cold=cold, host={"a": 0.001, "b": 0.005})
        assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
        before = ["flush", "flush"] if cold else ["a", "b"]
        turn = [
            [x, "wait", 2 * s, "begin", name, "end"] for x, s, name in zip(before, (0.001, 0.005), "ab", strict=True)
        ]
        assert done == [*turn[0], *turn[1]] * 2

    def test_ratios_are_of_neighbours(self):
        times = {self.fused.OURS: [2.0, 6.0, 3.0, 8.0], self.fused.PEER: [1.0, 2.0, 3.0, 4.0]}
        found = self.fused.compared(times)
        assert found["ratio"] == 2.0
        assert found["ratio_quartiles"] == [2.0, 2.0]
        assert found["ms"] == {self.fused.OURS: 4.5, self.fused.PEER: 2.5}

    def test_rates_of_kernels(self):
        import torch

        events = [("moments_kernel", 10.0), ("descend_kernel", 8.0), ("moments_kernel", 12.0), ("moments_kernel", 11.0)]
        events.append(("coefficients_kernel", 1.0))
        found = {x["kernel"]: x for x in self.fused.kernel_rates(events, 10**6, torch.float32, 4000.0)}
        assert found["moments_kernel"]["us"] == 11.0
        assert found["moments_kernel"]["GB_per_s"] == pytest.approx(20e6 / 11e-6 / 1e9)
        assert found["descend_kernel"]["share_of_copy"] == pytest.approx(16e6 / 8e-6 / 1e9 / 4000)
        assert "GB_per_s" not in found["coefficients_kernel"]

    def test_the_tables_have_cold_and_warm_the_bytes_and_the_rates(self):
        import torch

        side = {"ms": {self.fused.OURS: 1.3, self.fused.PEER: 1.0}, "ratio": 1.3, "ratio_quartiles": [1.2, 1.4]}
        found = {
            "cold": side,
            "warm": {**side, "ratio": 1.1},
            "host_us": {self.fused.OURS: 200.0, self.fused.PEER: 250.0},
        }
        found["bytes_a_coordinate"] = {
            x: self.fused.bytes_of(x, torch.bfloat16) for x in (self.fused.OURS, self.fused.PEER)
        }
        found["kernels"] = self.fused.kernel_rates([("moments_kernel", 1.0)], 1000, torch.bfloat16, 90.0)
        shown = self.fused.tables({"copy_GB_per_s": 90.0, "layer_sets": {"one, of many, bfloat16": found}})
        (cold, warm), (kernel,) = shown[0]["rows"], shown[1]["rows"]
        assert cold[:3] == ["one, of many", "bfloat16", "cold"]
        assert warm[2:6] == ["warm", "1.3000", "1.0000", "1.10"]
        assert cold[7:] == ["30 and 14", "2.14", "200", "250"]
        assert kernel == ["one, of many", "bfloat16", "moments_kernel", "1.0", "18", "20%"]
        assert all(len(line) == len(table["head"]) for table in shown for line in table["rows"])

    def test_there_are_sizes_that_fit_a_cache_and_that_do_not(self):
        bytes_of_set = [16 * self.fused.size(shapes) for shapes in self.fused.LAYERS.values()]  # θ, g, m, v in float32
        assert 16 << 20 in bytes_of_set
        assert max(bytes_of_set) > 4 * (50 << 20)  # an H100's L2 is 50 MB


def test_the_hosts_time_is_of_steps_that_launch_nothing_and_go_the_usual_way(monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.gpu import host
    from setadam_torch.paths.triton import at_once, launches

    monkeypatch.setattr(host, "LAYERS", 3)
    monkeypatch.setattr(host, "GRADIENTS", 2)
    found = host.measured(2)
    assert len(found) == 7
    assert all(0 < least <= median for median, least in found.values())
    with host.as_on_a_device():
        optimizer, layers = host.made(host.SETAdam)
        optimizer.step()
        monkeypatch.setattr(launches, "step_layers", None)
        before = [p.detach().clone() for p in layers]
        optimizer.step()
        assert at_once.step(optimizer.param_groups, optimizer.state)
        assert all(torch.equal(p, x) for p, x in zip(layers, before, strict=True))
