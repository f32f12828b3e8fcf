"""The studies, end to end on a task of one epoch, and study 4 on stand-ins of the paper's data."""

import importlib
import io
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("mnist1d", "pytorch_optimizer", "matplotlib", "sklearn"):
    pytest.importorskip(needed)

FOLDER = Path(__file__).parents[2] / "examples" / "experiments"
MODULES = [file.stem for file in FOLDER.glob("*.py")]


@pytest.fixture
def study(monkeypatch):
    """Import a module of the studies, and remove its plain name again for other tests."""
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in MODULES:
        sys.modules.pop(name, None)
        if before[name] is not None:
            sys.modules[name] = before[name]


@pytest.fixture
def tiny(study, monkeypatch):
    """The studies' store with one short task, and runs made in this process."""
    store = study("store")
    task = {"data": "digits", "model": "mlp", "epochs": 1}
    monkeypatch.setitem(store.CONFIG, "tasks", {"tiny": task})
    monkeypatch.setitem(store.CONFIG, "seeds", [1, 2])
    monkeypatch.setitem(store.CONFIG["compare"], "tasks", ["tiny"])
    monkeypatch.setitem(store.CONFIG["compare"], "lr", [1e-3, 1e-2])
    monkeypatch.setitem(store.CONFIG["compare"], "eps", [1e-8])
    monkeypatch.setitem(store.CONFIG["compare"], "sgd_lr", [0.1])
    monkeypatch.setitem(store.CONFIG["compare"], "sgd_momentum", [0.8, 0.9])
    monkeypatch.setitem(store.CONFIG["ablation"], "tasks", ["tiny"])
    monkeypatch.setitem(store.CONFIG["ablation"], "lr", [1e-2])
    monkeypatch.setitem(store.CONFIG["angles"], "every", 5)
    effects = {"tasks": ["tiny"], "seeds": [1, 2], "tuning_seeds": [0, 3], "lr": [1e-3, 1e-2], "floor": [1e-8, 1e-4]}
    monkeypatch.setitem(store.CONFIG["effects"], "coarse_too", ["tiny"])
    for name, value in {**effects, "every": 5}.items():
        monkeypatch.setitem(store.CONFIG["effects"], name, value)
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(store, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(1))
    return store


@pytest.mark.parametrize("name", ["compare", "ablation", "angles", "effects"])
def test_a_study_reports_and_goes_on_from_its_file(name, study, tiny, tmp_path, monkeypatch, capsys):
    main = study(name).main
    arguments = ["--results", str(tmp_path)]
    main(arguments)
    report, table = (tmp_path / f"{name}.md").read_text(), (tmp_path / f"{name}.csv").read_text()
    picture = (tmp_path / f"{name}.svg").read_bytes()
    assert "tiny" in report
    assert "±" in report

    def refuse(*_, **__):
        raise AssertionError("a run was made again")

    monkeypatch.setattr(tiny, "train", refuse)
    if name in ("angles", "effects"):
        monkeypatch.setattr(study(name), "train", refuse)
    main(arguments)
    assert (tmp_path / f"{name}.csv").read_text() == table
    assert (tmp_path / f"{name}.md").read_text() == report
    assert (tmp_path / f"{name}.svg").read_bytes() == picture


@pytest.mark.parametrize("name", ["compare", "ablation", "angles", "effects"])
def test_the_reports_follow_from_the_runs_in_the_repository(name, study, tmp_path, monkeypatch, capsys):
    """No run is missing, and the text is what the runs give."""

    def refuse(*_, **__):
        raise AssertionError("a run is missing")

    for file in (FOLDER / "results").glob(f"{name}*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(study("store"), "in_parallel", lambda _, calls, *__: iter(()) if not calls else refuse())
    study(name).main(["--results", str(tmp_path)])
    assert (tmp_path / f"{name}.md").read_text() == (FOLDER / "results" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["ablation", "angles", "effects"])
def test_other_settings_make_other_runs_beside_the_old_ones(name, study, tiny, tmp_path, monkeypatch):
    main, file = study(name).main, tmp_path / f"{name}.csv"
    main(["--results", str(tmp_path)])
    before = set(file.read_text().splitlines())
    monkeypatch.setitem(tiny.CONFIG["training"], "batch", 200)
    main(["--results", str(tmp_path)])
    after = set(file.read_text().splitlines())
    assert before < after


def test_a_line_that_was_cut_off_is_made_again(study, tiny, tmp_path):
    run = study("training").Run("tiny", "Adam", (("lr", 1e-3),), 1)
    file = tmp_path / "runs.csv"
    whole = tiny.run_all([run], file, 1, "")
    cut = file.read_text()[:-30]
    file.write_text(cut)
    again = tiny.run_all([run], file, 1, "")
    results = [dict(found[tiny.key(run)]) for found in (whole, again)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    assert tiny.key(run) in tiny.read(file)


def test_every_optimizer_has_as_many_settings(study):
    compare = study("compare")
    assert {len(set(compare.settings(name))) for name in compare.OPTIMIZERS} == {15}


def test_switching_all_three_off_is_adam(study):
    optimizers = study("optimizers")
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    ours, adams = (torch.nn.Parameter(start.clone()) for _ in range(2))
    off = optimizers.OFF["S"] | optimizers.OFF["E"] | optimizers.OFF["T"]
    pair = (
        optimizers.make("SET-Adam", [("x", ours)], lr=1e-2, **off),
        optimizers.make("Adam", [("x", adams)], lr=1e-2, eps=off["eps"]),
    )
    for _ in range(20):
        for optimizer, param in zip(pair, (ours, adams), strict=True):
            param.grad = param.detach() ** 3
            optimizer.step()
    # Twenty steps of a dozen roundings each, in float64.
    assert torch.allclose(ours, adams, rtol=1e-13, atol=0)
    assert not torch.equal(ours.detach(), start)


def test_a_conclusion_is_not_drawn_from_noise(study):
    tables = study("tables")
    assert "no difference" in tables.conclusion("a", [1.0, 2.0, 3.0], "b", [1.5, 1.5, 3.1])
    assert "a is better" in tables.conclusion("a", [2.0, 3.1, 4.0], "b", [1.0, 2.0, 3.0])
    assert "b is better" in tables.conclusion("a", [1.0, 2.0, 3.0], "b", [2.0, 3.1, 4.0])


def test_the_summary_counts_what_was_concluded(study):
    tables = study("tables")
    others = ([1.0, 2.0, 3.0], [4.0, 5.1, 6.0], [2.1, 3.0, 4.1])  # worse, better, the same to within the noise
    said = [tables.conclusion("a", [2.0, 3.1, 4.0], "b", other) for other in others]
    assert "3 comparisons, a is better in 1 and worse in 1; in 1 no difference" in tables.summary(said, "a")


def test_the_p_of_sign_flips_is_a_count(study):
    tables = study("tables")
    assert tables.sign_flips([1.0, 2.0, 3.0]) == 2 / 8  # all of one sign: itself and its mirror image
    assert tables.sign_flips([1.0, -1.0]) == 1
    assert tables.sign_flips([3.0, 2.0, -1.0]) == 4 / 8  # sums of ±4 and ±6
    # Under the hypothesis that nothing differs, a p of at most 0.05 is drawn in at most 5 % of cases (here 2000).
    draws = np.random.default_rng(0).normal(size=(2000, 8))
    small = sum(tables.sign_flips(draw) <= 0.05 for draw in draws)
    assert 50 < small < 130  # 12 of 256 patterns: 4.7 %, and three standard deviations of 9.5


def test_holms_correction(study):
    assert study("tables").holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert study("tables").holm([0.5, 0.9]) == [1.0, 1.0]


def test_less_can_be_better(study):
    tables = study("tables")
    said = tables.conclusion("a", [1.0, 2.0, 3.0], "b", [2.0, 3.1, 4.0], "bits", less_is_better=True)
    assert "bits, 95 %" in said
    assert said.endswith(": a is better.")


def test_a_variant_has_its_operations_and_its_floor(study):
    """One step on gradients near the floor, where each operation shows, against the specification."""
    from setadam_core import Hyperparameters, init, step

    effects, optimizers = study("effects"), study("optimizers")
    grad = 1e-4 * torch.linspace(0.1, 2, 8, dtype=torch.float64)
    for name, on in effects.OPERATIONS.items():
        _, optimizer, settings, _ = effects.run_of("photos-conv2d", name, 1e-4, 1e-2, 0)
        param = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
        param.grad = grad.clone()
        optimizers.make(optimizer, [("x", param)], **dict(settings)).step()
        hp = Hyperparameters(
            lr=1e-2,
            cos_power=2 if "S" in on else 0,
            eps_inside_sqrt="E" in on,
            eps=1e-8 if "E" in on else 1e-4,
            tau=0.5 if "T" in on else 0,
        )
        expected, _ = step(np.zeros(8), grad.numpy(), init(np.zeros(8)), hp)
        # 1 - β₂ at t = 1 cancels to 1e-13 in torch's Adam.
        np.testing.assert_allclose(param.detach().numpy(), expected, rtol=1e-12, err_msg=name)


def test_text_is_cut_into_windows_that_do_not_overlap(study):
    data = study("data")
    text = data.documentation()
    paragraphs = text.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    sets = data.load("python-docs")
    characters = sorted(set(text))
    whole = "".join(characters[i] for part in sets for i in part.x.flatten().tolist())
    assert text.startswith(whole)
    assert len(text) - len(whole) <= data.CONTEXT
    for part in sets:
        assert torch.equal(part.x[:, 1:], part.y[:, :-1])
    with pytest.raises(ValueError, match=r"sha256 of python-docs must be 00, as config\.toml says, got"):
        data.load("python-docs", "00")


def test_copies_of_a_digit_are_in_one_part(study):
    data = study("data")
    images, labels = data.digits_on_photos()
    again, _ = data.digits_on_photos()
    assert np.array_equal(images, again)
    sets = data.load("digits-on-photos")
    sizes = [len(part.y) for part in sets]
    assert sum(sizes) == len(images)
    assert all(size % data.COPIES == 0 for size in sizes)
    assert np.array_equal(torch.cat([part.y for part in sets]).numpy(), labels)


def test_the_language_model_sees_no_later_character(study):
    torch.manual_seed(0)
    model = study("models").build("language", 32, 50).eval()
    x = torch.randint(0, 50, (2, 32))
    changed = x.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 50
    before, after = model(x), model(changed)
    assert before.shape == (2, 50, 32)
    assert torch.equal(before[..., :20], after[..., :20])
    assert not torch.equal(before[..., 20:], after[..., 20:])


def add(tar, name, batch):
    content = pickle.dumps(batch)
    info = tarfile.TarInfo(f"cifar/{name}")
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_cifar(folder, classes, n=6):
    random = np.random.default_rng(0)
    names = ["train", "test"] if classes == 100 else [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    key = b"fine_labels" if classes == 100 else b"labels"
    with tarfile.open(folder / f"cifar-{classes}-python.tar.gz", "w:gz") as tar:
        for name in names:
            x = random.integers(0, 256, (n, 3072), dtype=np.uint8)
            add(tar, name, {b"data": x, key: random.integers(0, classes, n).tolist(), b"batch_label": b"x"})


def write_multi30k(folder):
    words = {
        "de": ["ein", "hund", "läuft", ".", "zwei", "katzen", "schlafen"],
        "en": ["a", "dog", "runs", ".", "two", "cats", "sleep"],
    }
    random = np.random.default_rng(0)
    for part, n in (("train", 12), ("val", 4)):
        lines = [random.integers(0, 7, random.integers(2, 6)) for _ in range(n)]
        for language in ("de", "en"):
            text = "\n".join(" ".join(words[language][i] for i in line) for line in lines) + "\n"
            (folder / f"{part}.{language}").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "precision", "optimizer"),
    [("vgg11-cifar10", "fp32", "SET-Adam"), ("vgg11-cifar100", "bf16", "AdaBelief"), ("multi30k", "fp32", "SET-Adam")],
)
def test_the_papers_tasks_load_train_and_resume(study, task, precision, optimizer, tmp_path):
    paper = study("paper")
    if task == "multi30k":
        write_multi30k(tmp_path)
    else:
        write_cifar(tmp_path, 100 if task.endswith("100") else 10)

    def run(epochs, results):
        arguments = [task, "--data", str(tmp_path), "--optimizer", optimizer, "--batch", "4", "--precision", precision]
        paper.main([*arguments, "--epochs", str(epochs), "--results", str(tmp_path / results), "--device", "cpu"])
        return tmp_path / results / f"{task}-{optimizer}-seed0.pt"

    whole = run(2, "whole")
    save = paper._save
    try:  # stopped after the first epoch, then started again
        paper._save = lambda *arguments: (save(*arguments), sys.exit("stopped"))
        with pytest.raises(SystemExit, match="stopped"):
            run(2, "halves")
    finally:
        paper._save = save
    resumed = run(2, "halves")
    a, b = (torch.load(file, weights_only=True) for file in (whole, resumed))
    assert a["rows"] == b["rows"]
    assert len(a["rows"]) == 2
    for name, x in a["model"].items():
        assert torch.equal(x, b["model"][name]), name
    with pytest.raises(SystemExit, match="move it away"):
        run(3, "halves")


def test_both_networks_have_the_sizes_that_are_known_of_them(study):
    models = study("paper_models")
    with torch.device("meta"):
        vgg, resnet = models.vgg11(10), models.resnet34(10)
    convolutions = [m for m in vgg.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 8
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3) for m in resnet.modules()) == 33
    assert sum(p.numel() for p in resnet.parameters()) == 21_282_122


def test_an_archive_that_holds_more_than_arrays_is_refused(study, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        add(tar, "data_batch_1", {b"data": Path("x")})
    with pytest.raises(pickle.UnpicklingError, match="holds arrays"):
        study("paper_data").cifar(tmp_path, 10)


def test_missing_data_is_named(study, tmp_path):
    paper_data = study("paper_data")
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python.tar.gz"):
        paper_data.cifar(tmp_path, 100)
    with pytest.raises(FileNotFoundError, match=r"train.de or train.de.gz"):
        paper_data.multi30k(tmp_path)
