"""Each snippet of docs/trainers.md runs as it is shown, and what is said beside it holds."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from snippets import ROOT, blocks, run_python

PAGE = "docs/trainers.md"
SNIPPETS = blocks(PAGE, "python")

# timm.optim imports timm's models, which import torchvision, whose builds need CUDA's libraries on Linux. None of it is
# used here.
WITHOUT_TORCHVISION = """
import importlib.abc, importlib.machinery, sys
from unittest.mock import MagicMock


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = MagicMock(__path__=[], __spec__=spec)
        module.__version__ = "0"
        return module

    def exec_module(self, module):
        pass


try:
    import torchvision
except (ImportError, RuntimeError):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.meta_path.insert(0, StandIn())
"""
BEFORE = {"timm": WITHOUT_TORCHVISION}

# Run after each snippet, with its names.
CHECKS = {
    "transformers": """
inner = trainer.optimizer.optimizer
assert type(inner) is SETAdam
assert all(group["decoupled_weight_decay"] and group["initial_lr"] == 5e-4 for group in inner.param_groups)
assert [group["weight_decay"] for group in inner.param_groups] == [0.1, 0.0]
assert {int(state["step"]) for state in inner.state.values()} == {10}
assert len(inner.state) == len(list(model.parameters()))
""",
    "accelerate": """
assert type(optimizer.optimizer) is SETAdam
assert {int(state["step"]) for state in optimizer.state.values()} == {2}  # 4 batches, accumulated by two
""",
    "Lightning": """
assert [type(optimizer) for optimizer in trainer.optimizers] == [SETAdam]
assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {8}
assert set(trainer.optimizers[0].layer_statistics()) == {"net.weight", "net.bias"}
""",
    "timm": """
assert type(optimizer) is SETAdam
assert {group["weight_decay"]: len(group["params"]) for group in optimizer.param_groups} == {0.0: 2, 0.05: 2}
assert all(group["decoupled_weight_decay"] and group["lr"] == 5e-4 for group in optimizer.param_groups)
SETAdam([{"params": model.parameters(), "lr_scale": 0.5}])  # what layer_decay adds to a group
""",
    "peft": """
assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
assert {int(state["step"]) for state in optimizer.state.values()} == {10}
""",
    "torchtitan": """
assert [type(inner) for inner in optimizers.optimizers] == [SETAdam]
(group,) = optimizers.optimizers[0].param_groups
assert group["foreach"] and group["decoupled_weight_decay"] and group["betas"] == (0.9, 0.95)
saved = optimizers.state_dict()
assert "state.weight.exp_avg" in saved and saved["param_groups.weight.tau"] == 0.5, saved.keys()
again = config.build(model_parts=[torch.nn.Linear(4, 1)])
again.load_state_dict(saved)
(one, other) = (next(iter(x.optimizers[0].state.values())) for x in (optimizers, again))
assert all(torch.equal(one[key], other[key]) for key in one)
""",
    "A sharded checkpoint of Adam": """
for before, param in zip(adam.param_groups[0]["params"], model.parameters(), strict=True):
    assert torch.equal(before, param) and int(optimizer.state[param]["step"]) == 1
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[param][key], adam.state[before][key])
(group,) = optimizer.param_groups
assert (group["lr"], group["weight_decay"], group["tau"]) == (1e-3, 0.2, 0.5)
try:
    dcp.load({"moments": get_state_dict(model, optimizer)[1]}, checkpoint_id="of-adam", no_dist=True)
except BaseException as error:  # CheckpointException is no Exception
    assert "tau" in str(error), error
else:
    raise AssertionError("the usual planner accepts it, too")
model(torch.ones(8, 4)).square().mean().backward()
late = SETAdam(model.parameters())
assert not get_state_dict(model, late)[1]["state"] and not late.state
""",
    "Schedule-free": """
assert type(optimizer.base) is SETAdam
assert {int(state["step"]) for state in optimizer.state.values()} == {10}
saved = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
other = torch.nn.Linear(4, 1)
other.load_state_dict(saved[1])
resumed = ScheduleFreeWrapper(SETAdam(other.parameters(), lr=1e-3, betas=(0.0, 0.999)), momentum=0.9)
resumed.load_state_dict(saved[0])
for module, opt in ((model, optimizer), (other, resumed)):
    opt.train()
    module(torch.ones(8, 4)).square().mean().backward()
    opt.step()
assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
""",
    "Schedule-free, 2": """
assert int(optax.tree.get(state, "count")) == 10
assert jnp.all(params["w"] < 1) and jnp.all(averaged["w"] < 1) and not jnp.array_equal(params["w"], averaged["w"])
""",
    "flax.nnx": """
assert losses[-1] < losses[0]
assert int(optimizer.step[...]) == 10
""",
    "Equinox": """
assert losses[-1] < losses[0]
half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, model)
state = optimizer.init(eqx.filter(half, eqx.is_inexact_array))
half, _, _ = train_step(half, state, jnp.ones((8, 4), jnp.bfloat16))
assert {x.dtype for x in jax.tree.leaves(eqx.filter(half, eqx.is_array))} == {jnp.dtype("bfloat16")}
""",
    "Keras": """
assert type(model.optimizer) is SETAdam
assert int(model.optimizer.iterations) == 8
""",
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name: str, tmp_path: Path) -> None:
    run_python(f"{BEFORE.get(name, '')}import copy\n{SNIPPETS[name]}{CHECKS[name]}", tmp_path)


def test_every_snippet_is_checked() -> None:
    assert list(SNIPPETS) == list(CHECKS)


def test_the_releases_on_the_page_are_those_that_run() -> None:
    named = re.findall(r"[Rr]un with (\w+) (\d+(?:\.\d+)+)", (ROOT / PAGE).read_text(encoding="utf-8"))
    assert len(named) >= 8
    for name, release in named:
        assert f"{version(name)}.".startswith(f"{release}."), f"{name} {version(name)} is installed"


def test_transformers_resumes_a_run_of_adamw(tmp_path: Path) -> None:
    """And a callback sets ε after loading. The trainer reads no learning rate but the one given with the class."""
    more = """
from transformers import TrainerCallback


class SetEpsilon(TrainerCallback):
    def on_train_begin(self, args, state, control, optimizer, **_):
        steps = {int(state["step"]) for state in optimizer.state.values()}
        self.found = {group["eps"] for group in optimizer.param_groups}, steps
        for group in optimizer.param_groups:
            group["eps"] = 1e-7


def trainer_of(**options):
    arguments = TrainingArguments(
        "run", max_steps=10, save_steps=5, learning_rate=7e-3, adam_epsilon=1e-3, weight_decay=0.1, report_to="none"
    )
    return Trainer(model, arguments, train_dataset=trainer.train_dataset, **options)


trainer_of().train()
callback = SetEpsilon()
resumed = trainer_of(optimizer_cls_and_kwargs=(SETAdam, {"lr": 5e-4}), callbacks=[callback])
resumed.train(resume_from_checkpoint="run/checkpoint-5")
assert callback.found == ({1e-3}, {5}), callback.found
inner = resumed.optimizer.optimizer
assert type(inner) is SETAdam and {int(s["step"]) for s in inner.state.values()} == {10}
assert {group["eps"] for group in inner.param_groups} == {1e-7}
assert all(group["decoupled_weight_decay"] for group in inner.param_groups)

fresh = trainer_of(optimizer_cls_and_kwargs=(SETAdam, {"lr": 5e-4}))
fresh.create_optimizer()
assert {group["lr"] for group in fresh.optimizer.param_groups} == {5e-4}
assert {group["eps"] for group in fresh.optimizer.param_groups} == {1e-8}
"""
    run_python(SNIPPETS["transformers"] + more, tmp_path)


def test_lightning_refuses_to_clip_an_optimizer_that_unscales(tmp_path: Path) -> None:
    more = """
from lightning.pytorch.plugins.precision import MixedPrecision

plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
parameters = list(model.parameters())
plugin.clip_gradients(SETAdam(parameters), clip_val=1.0)
try:
    plugin.clip_gradients(SETAdam(parameters, fused=True), clip_val=1.0)
except RuntimeError as error:
    assert "unscaling" in str(error), error
else:
    raise AssertionError("not refused")
"""
    run_python(SNIPPETS["Lightning"] + more, tmp_path)


def test_peft_factors(tmp_path: Path) -> None:
    """The first factor of an adapter does not change in step 1; LoRA+ gives the second one a larger learning rate."""
    more = """
from peft.optimizers import create_loraplus_optimizer

fresh = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
model = get_peft_model(fresh, LoraConfig(r=2, target_modules=["0", "2"]))
optimizer = create_loraplus_optimizer(model, SETAdam, lr=1e-3, loraplus_lr_ratio=16)
assert type(optimizer) is SETAdam
assert {group["lr"] for group in optimizer.param_groups if group["params"]} == {1e-3, 16e-3}
before = {name: param.clone() for name, param in model.named_parameters()}
model(torch.ones(8, 4)).square().mean().backward()
optimizer.step()
changed = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
assert changed == {name for name in before if "lora_B" in name}, changed
"""
    run_python(SNIPPETS["peft"] + more, tmp_path)
