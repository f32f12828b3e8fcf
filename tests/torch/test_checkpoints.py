"""A run that is stopped and resumed, in whatever way, goes on bit for bit."""

import copy
import io
import multiprocessing.reduction
import pickle
import sys

import pytest
import torch

from setadam_torch import SETAdam, load_neutral, to_neutral

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])


def run(opt, first, last):
    for i in range(first, last):
        for group in opt.param_groups:
            for j, p in enumerate(group["params"]):
                rng = torch.Generator().manual_seed(100 * i + j)
                p.grad = torch.randn(p.shape, generator=rng).to(p.dtype)
        opt.step()


def fresh(dtype, **options):
    torch.manual_seed(0)
    params = [torch.randn(s).to(dtype).requires_grad_() for s in [(3, 4), (), (0,), (5,)]]
    return SETAdam(params, lr=0.1, tau=0.3, betas=(0.8, 0.95), **options)


def params_of(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def through_file(state, **kwargs):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, **kwargs)


def reloaded(opt, how, dtype):
    if how == "pickle":
        return pickle.loads(pickle.dumps(opt))
    if how == "deepcopy":
        return copy.deepcopy(opt)
    state = opt.state_dict()
    state = through_file(state, map_location="cpu") if how == "torch.save" else state
    other = fresh(dtype)
    for p, q in zip(params_of(other), params_of(opt), strict=True):
        p.data.copy_(q.data)
    other.load_state_dict(state)
    return other


@DTYPES
@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "torch.save"])
def test_resuming_is_exact(dtype, foreach, how):
    whole, stopped = fresh(dtype, foreach=foreach), fresh(dtype, foreach=foreach)
    run(whole, 0, 6)
    run(stopped, 0, 3)
    resumed = reloaded(stopped, how, dtype)
    assert resumed.param_groups[0]["tau"] == 0.3
    run(resumed, 3, 6)
    for p, q in zip(params_of(whole), params_of(resumed), strict=True):
        assert torch.equal(p, q)
        for name, x in whole.state[p].items():
            assert torch.equal(x, resumed.state[q][name])
            assert x.dtype == resumed.state[q][name].dtype


def test_a_loaded_state_is_a_copy():
    one, two = fresh(torch.float32), fresh(torch.float32)
    run(one, 0, 2)
    two.load_state_dict(one.state_dict())
    before = params_of(one)[0].detach().clone(), one.state[params_of(one)[0]]["exp_avg"].clone()
    run(two, 2, 4)
    assert torch.equal(one.state[params_of(one)[0]]["exp_avg"], before[1])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"amsgrad": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_of_adam_loads(kind, options, dtype):
    ours = fresh(dtype)
    theirs = kind(params_of(ours), lr=0.01, weight_decay=0.1, **options)
    run(theirs, 0, 3)
    saved = through_file(theirs.state_dict())
    if options.get("amsgrad"):
        with pytest.warns(UserWarning, match="group 0 comes with amsgrad=True.*max_exp_avg_sq is dropped"):
            ours.load_state_dict(saved)
    else:
        ours.load_state_dict(saved)
    group = ours.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["tau"]) == (0.01, 0.1, 0.3)
    assert group["decoupled_weight_decay"] is (kind is torch.optim.AdamW)
    assert not group["fused"]
    p = params_of(ours)[0]
    assert torch.equal(ours.state[p]["exp_avg"], theirs.state[p]["exp_avg"].float())
    assert ours.state[p]["exp_avg"].dtype == torch.float32
    run(ours, 3, 4)
    assert int(ours.state[p]["step"]) == 4
    assert set(ours.state[p]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_state_that_does_not_fit_changes_nothing():
    opt = fresh(torch.float32)
    run(opt, 0, 2)
    bad = copy.deepcopy(opt.state_dict())
    bad["state"][0]["exp_avg"] = torch.zeros(7)
    before = opt.state[params_of(opt)[0]]["exp_avg"].clone()
    with pytest.raises(
        ValueError, match=r"parameter 0 of group 0: exp_avg must have the parameter's shape \(3, 4\), got \(7,\)"
    ):
        opt.load_state_dict(bad)
    assert torch.equal(opt.state[params_of(opt)[0]]["exp_avg"], before)


def test_step_returns_to_the_cpu():
    opt = fresh(torch.float32)
    run(opt, 0, 2)
    state = opt.state_dict()
    state["state"][0]["step"] = state["state"][0]["step"].to(torch.float64)
    opt.load_state_dict(state)
    step = opt.state[params_of(opt)[0]]["step"]
    assert (step.device.type, step.dtype, float(step)) == ("cpu", torch.float64, 2.0)


@pytest.mark.parametrize("where", ["cpu", torch.device("cpu"), {"cpu": "cpu"}, lambda storage, _: storage])
def test_map_location(where):
    opt, other = fresh(torch.bfloat16), fresh(torch.bfloat16)
    run(opt, 0, 2)
    other.load_state_dict(through_file(opt.state_dict(), map_location=where))
    for p, q in zip(params_of(opt), params_of(other), strict=True):
        assert torch.equal(opt.state[p]["exp_avg"], other.state[q]["exp_avg"])


def test_moments_go_to_the_device_of_their_parameter():
    """And `step` stays on the CPU, where resuming needs it (pytorch#80809)."""
    opt = fresh(torch.bfloat16)
    run(opt, 0, 2)
    there = SETAdam([torch.empty_like(p, device="meta").requires_grad_() for p in params_of(opt)])
    there.load_state_dict(through_file(opt.state_dict()))
    for entry in there.state.values():
        assert {entry[name].device.type for name in ("exp_avg", "exp_avg_sq")} == {"meta"}
        assert entry["exp_avg"].dtype == torch.float32
        assert (entry["step"].device.type, float(entry["step"])) == ("cpu", 2.0)


def test_load_hooks_still_run():
    opt, seen = fresh(torch.float32), []
    run(opt, 0, 1)
    opt.register_load_state_dict_pre_hook(lambda o, s: seen.append(type(s["state"][0]["exp_avg"])))
    opt.register_load_state_dict_post_hook(lambda o: seen.append(type(o.state[params_of(o)[0]]["exp_avg"])))
    opt.load_state_dict(opt.state_dict())
    assert seen == [torch.Tensor, torch.Tensor]


def test_without_torch_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "setadam_torch")
    with pytest.raises(ImportError, match='PyTorch: pip install "torch>='):
        import setadam_torch  # noqa: F401


def shares_memory(p, optimizer, queue):
    queue.put({key: x.is_shared() for key, x in optimizer.state[p].items()})
    p.grad = torch.ones(4)
    optimizer.step()


def test_hogwild_counts_its_steps_together():
    """Parameters, moments and step count in shared memory stay shared in the processes that they are sent to."""
    p = torch.nn.Parameter(torch.ones(4).share_memory_())
    optimizer = SETAdam([p])
    p.grad = torch.ones(4)
    optimizer.step()
    p.grad = None
    for x in optimizer.state[p].values():
        x.share_memory_()
    context = torch.multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.SimpleQueue()
    sent = pickle_for_processes((p, optimizer))
    process = context.Process(target=unpickle_and_step, args=(sent, queue))
    process.start()
    shared = queue.get()
    process.join()
    assert process.exitcode == 0
    assert shared == {"step": True, "exp_avg": True, "exp_avg_sq": True}
    assert optimizer.state[p]["step"] == 2


def pickle_for_processes(x):
    return bytes(multiprocessing.reduction.ForkingPickler.dumps(x))


def unpickle_and_step(sent, queue):
    torch.set_num_threads(1)
    shares_memory(*pickle.loads(sent), queue)


def test_unpickling_keeps_the_count_that_it_was_given():
    optimizer = fresh(torch.float32)
    run(optimizer, 0, 2)
    p = params_of(optimizer)[0]
    count = optimizer.state[p]["step"]
    optimizer.__setstate__(optimizer.__getstate__())
    assert optimizer.state[p]["step"] is count


@pytest.mark.parametrize("how", [{"fused": True}, {"capturable": True}, {}])
def test_the_neutral_form_puts_the_count_where_a_step_reads_it(how):
    source, p = fresh(torch.float32), torch.nn.Parameter(torch.ones(3, 4, device="meta"))
    run(source, 0, 2)
    form = {key: x for key, x in to_neutral(source).items() if key.startswith("0/")}
    optimizer = SETAdam([p], **how)
    load_neutral(optimizer, form)
    assert optimizer.state[p]["step"].device.type == ("meta" if how else "cpu")


def test_a_decay_whose_kind_is_not_told():
    """State_dicts of AdamW before torch 2.7 do not say that its decay is decoupled."""
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    theirs = torch.optim.AdamW([w], weight_decay=0.01)
    theirs.step()
    saved = theirs.state_dict()
    del saved["param_groups"][0]["decoupled_weight_decay"]
    for own in (True, False):
        ours = SETAdam([w], decoupled_weight_decay=own)
        if own:
            ours.load_state_dict(saved)
        else:
            with pytest.warns(UserWarning, match=r"group 0 comes with weight_decay=0\.01 and does not say"):
                ours.load_state_dict(saved)
        assert ours.param_groups[0]["decoupled_weight_decay"] is own
        assert ours.param_groups[0]["weight_decay"] == 0.01
    saved["param_groups"][0]["weight_decay"] = 0.0
    SETAdam([w]).load_state_dict(saved)  # nothing to tell, and no warning
