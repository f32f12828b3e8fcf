"""`SETAdam` for Keras 3: what `keras.optimizers.Adam` is there, with the step of `setadam_core`."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import COMPUTE_DTYPE, Layer, check_layer_axes
from setadam_core.parts import denominator
from setadam_core.spec import bias_correction, down_scaling
from setadam_keras.arrays import xp

LayerAxes = Sequence[int] | Mapping[str, Sequence[int] | None] | None

# The specification's names of what has another name in Keras, for error messages.
_IN_KERAS = {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}


@keras.saving.register_keras_serializable(package="setadam")
class SETAdam(keras.optimizers.Optimizer):  # type: ignore[misc]
    """SET-Adam: Adam with a smaller range of adaptive stepsizes (arXiv 2302.01029, algorithm 1).

    ``epsilon`` is added *under* the square root: Adam's ``epsilon=1e-4`` is closest to ``epsilon=1e-8`` here. Moments
    are float32 for float16 and bfloat16 variables, and so is the arithmetic of a step, weight decay included: a
    variable is rounded once.

    Parameters
    ----------
    learning_rate : η ≥ 0: a float, a `keras.optimizers.schedules.LearningRateSchedule`, or a function without arguments
        that returns η. Keras keeps a float as a variable of `keras.config.floatx()`.
    beta_1, beta_2 : decay rates β₁, β₂ in [0, 1) of the first and second moment.
    epsilon : ε > 0, in units of the gradient squared.
    tau : share τ in [0, 1) of the layer's smallest denominator that is taken off; 0 switches down-translating off.
    weight_decay : λ ≥ 0, or None for 0. As everywhere in Keras it is decoupled: θ is multiplied by 1 - ηλ.
        `exclude_from_weight_decay` chooses the variables that do not decay.
    decoupled_weight_decay : False adds λθ to the gradient instead, after clipping, so that it enters both moments.
    layer_axes : the axes of a variable that make one layer; None for all. A dict gives them by variable: the first of
        its regular expressions that is found in the variable's path counts, ``{"experts/kernel": (1, 2)}`` for example.
    cos_power : power n ≥ 0 of the cosine in γ = cosⁿ∠(v, 1). The paper's is 2; 0 switches down-scaling off.
    eps_inside_sqrt : False adds ε after the square root, as Adam does (an ablation).
    clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, \
gradient_accumulation_steps, name : as in `keras.optimizers.Optimizer`.

    Raises
    ------
    TypeError, ValueError : a hyperparameter of the wrong type or out of its range; in `apply`, before anything is
        changed, a gradient of another shape than its variable; in `build`, a variable that is not real floating-point,
        an ε or λ that its compute dtype cannot represent, axes that it does not have.

    Examples
    --------
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(optimizer=SETAdam(1e-3, weight_decay=1e-2), loss="mse")
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        tau: float = 0.5,
        *,
        weight_decay: float | None = None,
        decoupled_weight_decay: bool = True,
        layer_axes: LayerAxes = None,
        cos_power: float = 2,
        eps_inside_sqrt: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **options)
        self._check_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.tau = tau
        self.decoupled_weight_decay = decoupled_weight_decay
        self.layer_axes = layer_axes
        self.cos_power = cos_power
        self.eps_inside_sqrt = eps_inside_sqrt
        self._widens = False
        self._hyperparameters()

    @property
    def learning_rate(self) -> Any:
        """η now: Keras's variable, or what the schedule or the function returns. A number can be assigned."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._check_learning_rate(value)
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def build(self, variables: Sequence[Any]) -> None:
        """Create the moments: ``momentum`` (m) and ``velocity`` (v), with the shapes and layouts of the variables."""
        if self.built:
            return
        hp = self._hyperparameters()
        for variable in variables:
            if not getattr(variable, "overwrite_with_gradient", False):
                info = np.finfo(self._layer(variable, hp).dtype)
                _renamed(hp.check_representable, str(info.dtype), float(info.smallest_normal), float(info.max))
        super().build(variables)
        self._widens = True
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        self._widens = False

    def add_variable(self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **options: Any) -> Any:
        """As in Keras. Moments are in the compute dtype; what Keras itself keeps is in the variable's."""
        if self._widens:
            dtype = COMPUTE_DTYPE[keras.backend.standardize_dtype(dtype)]
        return super().add_variable(shape, initializer=initializer, dtype=dtype, **options)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One step, as in Keras: ``grads[i]`` is the gradient of the i-th variable, or None, or sparse."""
        grads = list(grads)
        variables = trainable_variables if trainable_variables is None else list(trainable_variables)
        if self.built or variables is not None:
            self._check_gradients(grads, self._trainable_variables if variables is None else variables)
        self._hyperparameters()  # they are attributes, which may have been set
        super().apply(grads, variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable: `spec.trace` from g to θ, line by line, with the functions of `setadam_core`."""
        index = self._get_variable_index(variable)
        moments = self._momentums[index], self._velocities[index]
        hp = self._hyperparameters()
        layer = self._layer(self._trainable_variables[index], hp)
        if 0 in variable.shape:
            return
        c, t = layer.coefficient, ops.convert_to_tensor(self.iterations) + 1
        lr, theta, m, v = (
            ops.cast(ops.stop_gradient(ops.convert_to_tensor(x)), layer.dtype)
            for x in (learning_rate, variable, *moments)
        )
        g = _dense(gradient, theta)
        decays = hp.decays and self._use_weight_decay(variable)

        if decays and not hp.decoupled_weight_decay:
            g = g + c(hp.weight_decay) * theta
        m = c(hp.beta1) * m + c(1 - hp.beta1) * g
        v = c(hp.beta2) * v + c(1 - hp.beta2) * (g * g)
        w_shifted, _ = denominator(v, down_scaling(v, layer, hp.cos_power), layer.min(v), t, layer, hp)
        update = c(lr / bias_correction(hp.beta1, t, layer)) * m / w_shifted
        if decays and hp.decoupled_weight_decay:
            theta = c(1 - lr * hp.weight_decay) * theta
        for to, value in zip((*moments, variable), (m, v, theta - update), strict=True):
            self.assign(to, ops.cast(value, keras.backend.standardize_dtype(to.dtype)))

    def get_config(self) -> dict[str, Any]:
        """All arguments, as JSON can hold them; `from_config` makes the same optimizer of them, without its state."""
        axes = self.layer_axes
        if isinstance(axes, Mapping):
            axes = {pattern: x if x is None else list(x) for pattern, x in axes.items()}
        elif axes is not None:
            axes = list(axes)
        config: dict[str, Any] = super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "tau": self.tau,
            "decoupled_weight_decay": self.decoupled_weight_decay,
            "layer_axes": axes,
            "cos_power": self.cos_power,
            "eps_inside_sqrt": self.eps_inside_sqrt,
        }
        return config

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: `update_step` decays, so that a 16-bit variable is rounded once, and λθ can be in the gradient."""

    def _hyperparameters(self) -> Hyperparameters:
        """The attributes, checked. The learning rate is not among them: it changes, and may be traced."""
        hp: Hyperparameters = _renamed(
            Hyperparameters,
            beta1=self.beta_1,
            beta2=self.beta_2,
            eps=self.epsilon,
            tau=self.tau,
            weight_decay=0.0 if self.weight_decay is None else self.weight_decay,
            decoupled_weight_decay=self.decoupled_weight_decay,
            cos_power=self.cos_power,
            eps_inside_sqrt=self.eps_inside_sqrt,
        )
        return hp

    def _layer(self, variable: Any, hp: Hyperparameters) -> Layer:
        """How to compute on a variable. TypeError or ValueError if a step of it is not defined."""
        name = keras.backend.standardize_dtype(variable.dtype)
        if name.startswith("complex") or name not in COMPUTE_DTYPE:
            raise TypeError(f"variable {_path(variable)!r} must be real floating-point, got {name}")
        shape = tuple(variable.shape)
        axes = check_layer_axes(self._axes_of(_path(variable)), len(shape))
        size = math.prod(shape[axis] for axis in axes)
        return Layer(xp, COMPUTE_DTYPE[name], name, False, axes, size)

    def _axes_of(self, path: str) -> Any:
        if not isinstance(self.layer_axes, Mapping):
            return None if self.layer_axes is None else tuple(self.layer_axes)
        found = (axes for pattern, axes in self.layer_axes.items() if re.search(pattern, path))
        axes = next(found, None)
        return None if axes is None else tuple(axes)

    def _check_learning_rate(self, value: Any) -> None:
        if isinstance(value, Real):
            _renamed(Hyperparameters, lr=value)

    def _check_gradients(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        if grads and len(grads) != len(variables):
            raise ValueError(f"grads must have one entry for each of {len(variables)} variables, got {len(grads)}")
        for gradient, variable in zip(grads, variables, strict=False):
            got, shape = getattr(gradient, "shape", None), tuple(variable.shape)
            if got is None or getattr(got, "rank", 0) is None:  # None; or TensorFlow does not know it while it traces
                continue
            if len(got) != len(shape) or any(n not in (None, d) for n, d in zip(got, shape, strict=True)):
                raise ValueError(f"the gradient of {_path(variable)!r} must have shape {shape}, got {tuple(got)}")


def _renamed(check: Any, *args: Any, **numbers: Any) -> Any:
    """check(…), with the names of Keras in its error messages, which begin with a name."""
    try:
        return check(*args, **numbers)
    except (TypeError, ValueError) as error:
        name, space, rest = str(error).partition(" ")
        raise type(error)(f"{_IN_KERAS.get(name, name)}{space}{rest}") from None


def _dense(gradient: Any, theta: Any) -> Any:
    """A gradient in the dtype of θ. That of an embedding may be sparse, but v decays in all rows, and γ is of all."""
    if hasattr(gradient, "dense_shape"):  # TensorFlow's: Keras adds it to a dense array, each row as often as it occurs
        return ops.add(ops.zeros_like(theta), ops.cast(gradient, theta.dtype))
    return ops.cast(ops.convert_to_tensor(gradient, sparse=False), theta.dtype)


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
