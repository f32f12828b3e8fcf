"""What is timed: each peer makes, for a set of layers and a dtype, a function that takes one step."""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sets import Shapes
from setadam_numpy import SETAdam as NumPySETAdam
from setadam_torch import SETAdam

Step = Callable[[], Any]
MOST_COMPILED = 256  # layers: a compiler would take minutes over a graph of more
sys.path.append(str(Path(__file__).parents[1] / "examples" / "adapters"))


@dataclass(frozen=True)
class Peer:
    """``against`` is the peer that it is timed in turns with, and whose time is its unit."""

    name: str
    make: Callable[[Shapes, str], Step]
    ours: bool
    against: str = "torch Adam fused"
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")
    slow: bool = False  # several passes over memory, or a call for each layer: left out of the quick run
    needs: str | None = None  # a module

    def why_not(self, dtype: str, layers: int = 1, all_threads: bool = True) -> str | None:
        """None if it can run here, on so many layers, with all threads or with fewer."""
        if dtype not in self.dtypes:
            return f"not for {dtype}"
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"needs {self.needs}"
        if layers > MOST_COMPILED and (self.needs == "jax" or "compiled" in self.name):
            return "takes minutes to compile"
        if self.needs == "jax" and not all_threads:
            return "XLA takes as many threads as there were CPUs when the process began"
        return None


def use_threads(threads: int) -> None:
    """Let later steps of torch and of setadam_numpy take so many."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # which setadam_numpy reads in every step


def _torch(optimizer: Callable[..., Any], *, compiled: bool = False, **options: Any) -> Callable[[Shapes, str], Step]:
    def make(shapes: Shapes, dtype: str) -> Step:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(s, generator=generator).to(getattr(torch, dtype)).requires_grad_() for s in shapes]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        step = optimizer(params, **options).step
        if compiled:
            torch.compiler.reset()
            step = torch.compile(step)
        return step  # type: ignore[no-any-return]

    return make


def _textbook_torch(params: Any) -> Any:
    from textbook_torch_optimizer import TextbookSETAdam

    return TextbookSETAdam(params)


def _arrays(shapes: Shapes, dtype: str) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def _numpy(**options: Any) -> Callable[[Shapes, str], Step]:
    def make(shapes: Shapes, dtype: str) -> Step:
        optimizer, grads = NumPySETAdam(_arrays(shapes, dtype), **options), _arrays(shapes, dtype)
        return lambda: optimizer.step(grads)

    return make


def _textbook_numpy(shapes: Shapes, dtype: str) -> Step:
    """Adam as one writes it: a loop over arrays, an expression a line."""
    params, grads = _arrays(shapes, dtype), _arrays(shapes, dtype)
    ms, vs = ([np.zeros_like(p) for p in params] for _ in "mv")
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        for p, g, m, v in zip(params, grads, ms, vs, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g * g
            p -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return step


def _jax(name: str) -> Callable[[Shapes, str], Step]:
    """A jitted update that gives its buffers back."""

    def make(shapes: Shapes, dtype: str) -> Step:
        import jax
        import jax.numpy as jnp
        import optax

        from setadam_jax import set_adam

        optimizer = {"optax": optax.adam, "ours": set_adam}[name](1e-3)
        params, grads = ([jnp.asarray(x, dtype) for x in _arrays(shapes, "float32")] for _ in "pg")

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        jitted = jax.jit(update, donate_argnums=(0, 1))
        state = params, optimizer.init(params)

        def step() -> None:
            nonlocal state
            state = jax.block_until_ready(jitted(*state, grads))

        return step

    return make


_ADAM, _JAX = torch.optim.Adam, {"dtypes": ("float32", "bfloat16"), "needs": "jax"}
_NUMPY: dict[str, Any] = {"dtypes": ("float32", "float64")}
PEERS = [
    Peer("torch Adam fused", _torch(_ADAM, fused=True), ours=False),
    Peer("torch Adam foreach", _torch(_ADAM, foreach=True), ours=False, slow=True),
    Peer("torch Adam default", _torch(_ADAM), ours=False, slow=True),
    Peer("textbook SET-Adam, torch", _torch(_textbook_torch), ours=False, dtypes=("float32", "float64"), slow=True),
    Peer("SETAdam fused", _torch(SETAdam, fused=True), ours=True, needs="numba"),
    Peer("SETAdam fused=False", _torch(SETAdam, fused=False), ours=True),
    Peer("SETAdam single", _torch(SETAdam, foreach=False), ours=True, slow=True),
    Peer("SETAdam compiled", _torch(SETAdam, compiled=True), ours=True, slow=True),
    Peer("textbook Adam, NumPy", _textbook_numpy, ours=False, slow=True, **_NUMPY),
    Peer("setadam_numpy fused", _numpy(fused=True), ours=True, needs="numba", **_NUMPY),
    Peer("setadam_numpy fused=False", _numpy(fused=False), ours=True, slow=True, **_NUMPY),
    Peer("optax.adam, jitted", _jax("optax"), ours=False, slow=True, **_JAX),
    Peer("setadam_jax, jitted", _jax("ours"), ours=True, against="optax.adam, jitted", slow=True, **_JAX),
]
BY_NAME = {peer.name: peer for peer in PEERS}
