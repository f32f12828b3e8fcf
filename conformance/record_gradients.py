"""Record the gradients of real training: `python conformance/record_gradients.py`.

Five small models on scikit-learn's digits (8 × 8 images, in the public domain), with backward passes written by hand in
NumPy's float64. `setadam_core.step` trains each at the default hyperparameters, on gradients that were first rounded to
float32. So the specification in float64, given the recorded gradients, reaches exactly the parameters at which they
were taken.

The recording was made with NumPy 2.4 and scikit-learn 1.9. Initial parameters come from Python's `random.Random`, not
from NumPy's generators. Another BLAS may round differently, by about 1e-16 in a step, which changes at most the last
bit of a few recorded float32 numbers.
"""

import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from setadam_core import Hyperparameters, init, step

Array = npt.NDArray[Any]
Params = dict[str, Array]
Gradients = Callable[[Params, Array, Array], Params]

FILE = Path(__file__).parent / "setadam_conformance" / "cases" / "recorded.npz"


class Model(NamedTuple):
    params: Params
    gradients: Gradients
    steps: int
    batch: int


def normal(seed: str, *shape: int, scale: float) -> Array:
    """Normally distributed numbers rounded to float32, the same on every platform."""
    draw = random.Random(seed)
    values = [
        # Box and Muller: `random()` is the only method whose sequence Python guarantees.
        math.sqrt(-2 * math.log(1 - draw.random())) * math.cos(2 * math.pi * draw.random())
        for _ in range(math.prod(shape))
    ]
    return (scale * np.array(values)).reshape(shape).astype(np.float32).astype(np.float64)


def head(logits: Array, labels: Array) -> Array:
    """The gradient of the mean cross-entropy with respect to the logits."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return np.asarray(p / len(labels))


def linear(seed: str, n_in: int, n_out: int) -> tuple[Array, Array]:
    return normal(seed, n_in, n_out, scale=n_in**-0.5), np.zeros(n_out)


def mlp() -> Model:
    """64-16-10 with ReLU."""
    w1, b1 = linear("mlp.w1", 64, 16)
    w2, b2 = linear("mlp.w2", 16, 10)

    def gradients(p: Params, x: Array, y: Array) -> Params:
        h = np.maximum(x @ p["w1"] + p["b1"], 0)
        dz = head(h @ p["w2"] + p["b2"], y)
        dh = (dz @ p["w2"].T) * (h > 0)
        return {"w1": x.T @ dh, "b1": dh.sum(0), "w2": h.T @ dz, "b2": dz.sum(0)}

    return Model({"w1": w1, "b1": b1, "w2": w2, "b2": b2}, gradients, 200, 64)


def convolution() -> Model:
    """Six 3 × 3 filters, ReLU, the mean over the image, and a linear layer."""
    w, b = linear("convolution.w", 6, 10)
    # With a zero bias, ReLU would be at its kink wherever the image is blank.
    bias = normal("convolution.bias", 6, scale=0.1)
    start = {"filters": normal("convolution.filters", 6, 3, 3, scale=1 / 3), "bias": bias, "w": w, "b": b}

    def gradients(p: Params, x: Array, y: Array) -> Params:
        patches = np.lib.stride_tricks.sliding_window_view(x.reshape(-1, 8, 8), (3, 3), axis=(1, 2))
        z = np.einsum("nijkl,fkl->nijf", patches, p["filters"]) + p["bias"]
        h = np.maximum(z, 0).mean(axis=(1, 2))
        dlogits = head(h @ p["w"] + p["b"], y)
        dz = (z > 0) * (dlogits @ p["w"].T / 36)[:, None, None, :]
        filters = np.einsum("nijkl,nijf->fkl", patches, dz)
        return {"filters": filters, "bias": dz.sum((0, 1, 2)), "w": h.T @ dlogits, "b": dlogits.sum(0)}

    return Model(start, gradients, 20, 16)


def embedding() -> Model:
    """An embedding of (position, grey value) pairs, averaged over the image. With a batch of two images, most rows get
    no gradient.
    """
    w, b = linear("embedding.w", 4, 10)
    start = {"table": normal("embedding.table", 16 * 17, 4, scale=1.0), "w": w, "b": b}

    def gradients(p: Params, x: Array, y: Array) -> Params:
        grey = np.rint(x * 16).astype(int).reshape(-1, 8, 8)[:, ::2, ::2].reshape(-1, 16)
        tokens = 17 * np.arange(16) + grey
        h = p["table"][tokens].mean(axis=1)
        dlogits = head(h @ p["w"] + p["b"], y)
        table = np.zeros_like(p["table"])
        np.add.at(table, tokens, (dlogits @ p["w"].T / 16)[:, None, :])
        return {"table": table, "w": h.T @ dlogits, "b": dlogits.sum(0)}

    return Model(start, gradients, 15, 2)


def attention() -> Model:
    """One head of self-attention over the eight rows of the image, averaged."""
    start = {f"w_{k}": normal(f"attention.{k}", 8, 8, scale=8**-0.5) for k in "qkv"}
    start["w"], start["b"] = linear("attention.w", 8, 10)

    def gradients(p: Params, x: Array, y: Array) -> Params:
        rows = x.reshape(-1, 8, 8)
        q, k, v = (rows @ p[f"w_{name}"] for name in "qkv")
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(8)
        a = np.exp(scores - scores.max(axis=2, keepdims=True))
        a /= a.sum(axis=2, keepdims=True)
        h = (a @ v).mean(axis=1)
        dlogits = head(h @ p["w"] + p["b"], y)
        dout = np.repeat((dlogits @ p["w"].T / 8)[:, None, :], 8, axis=1)
        da = dout @ v.transpose(0, 2, 1)
        dscores = a * (da - (da * a).sum(axis=2, keepdims=True)) / math.sqrt(8)
        back = {"q": dscores @ k, "k": dscores.transpose(0, 2, 1) @ q, "v": a.transpose(0, 2, 1) @ dout}
        grads = {f"w_{name}": np.einsum("nij,nik->jk", rows, d) for name, d in back.items()}
        return {**grads, "w": h.T @ dlogits, "b": dlogits.sum(0)}

    return Model(start, gradients, 15, 16)


def layer_norm() -> Model:
    """64-12, layer norm with scale and bias, ReLU, 12-10."""
    w1, b1 = linear("layer_norm.w1", 64, 12)
    w2, b2 = linear("layer_norm.w2", 12, 10)
    start = {"w1": w1, "b1": b1, "scale": np.ones(12), "bias": np.zeros(12), "w2": w2, "b2": b2}

    def gradients(p: Params, x: Array, y: Array) -> Params:
        z = x @ p["w1"] + p["b1"]
        centred = z - z.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        n = centred / deviation
        scaled = n * p["scale"] + p["bias"]
        h = np.maximum(scaled, 0)
        dlogits = head(h @ p["w2"] + p["b2"], y)
        ds = (dlogits @ p["w2"].T) * (scaled > 0)
        dn = ds * p["scale"]
        dz = (dn - dn.mean(axis=1, keepdims=True) - n * (dn * n).mean(axis=1, keepdims=True)) / deviation
        norm = {"scale": (ds * n).sum(0), "bias": ds.sum(0)}
        return {"w1": x.T @ dz, "b1": dz.sum(0), **norm, "w2": h.T @ dlogits, "b2": dlogits.sum(0)}

    return Model(start, gradients, 15, 16)


MODELS = {f.__name__: f for f in (mlp, convolution, embedding, attention, layer_norm)}


def batches(size: int) -> Iterator[tuple[Array, Array]]:
    """The digits in order, repeated, with pixels in [0, 1]."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    at = 0
    while True:
        pick = np.arange(at, at + size) % len(labels)
        yield images[pick] / 16, labels[pick]
        at += size


def record(name: str, steps: int | None = None) -> dict[str, Array]:
    """The arrays of one model: "name/layer/start" of shape s, "name/layer/grads" of shape (steps, *s)."""
    model = MODELS[name]()
    params = dict(model.params)
    states = {key: init(p) for key, p in params.items()}
    taken: dict[str, list[Array]] = {key: [] for key in params}
    hp = Hyperparameters()
    for (x, y), _ in zip(batches(model.batch), range(steps or model.steps), strict=False):
        grads = {key: g.astype(np.float32) for key, g in model.gradients(params, x, y).items()}
        for key, g in grads.items():
            taken[key].append(g)
            params[key], states[key] = step(params[key], g.astype(np.float64), states[key], hp)
    start = {f"{name}/{key}/start": p.astype(np.float32) for key, p in model.params.items()}
    return start | {f"{name}/{key}/grads": np.stack(g) for key, g in taken.items()}


def main(path: Path = FILE) -> None:
    """Record all models into one file."""
    arrays = {key: x for name in MODELS for key, x in record(name).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # its stub takes names for options
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
