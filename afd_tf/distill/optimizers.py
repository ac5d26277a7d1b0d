"""SGD and Adam as PyTorch computes them, one fused kernel per variable.

Keras' optimizers give the state, the schedules and the checkpoint; only the update
itself is ours, for three reasons. The weight decay of the recipes that this project
repeats is *coupled*: it is added to the gradient and so passes through momentum and
moments, while Keras' is decoupled and, for Adam at 2e-5, some 200 times weaker.
PyTorch's momentum holds gradients, not steps, so that a drop of the learning rate
acts at once. And Keras' updates are many small ops: most of the time that tracing a
training step takes.
"""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.distill.schedules import StepDecay

KINDS = ("sgd", "adam")
DECAY_MODES = ("coupled", "decoupled")

_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    0.1,
    "Initial learning rate of the peers' SGD optimizer.",
    lower_bound=0,
)
_MOMENTUM = flags.DEFINE_float(
    "momentum",
    0.9,
    "Momentum of the peers' SGD optimizer.",
    lower_bound=0,
    upper_bound=1,
)
_NESTEROV = flags.DEFINE_bool(
    "nesterov", False, "Use Nesterov momentum in the peers' SGD optimizer."
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 1e-4, "L2 factor of the peers' SGD optimizer.", lower_bound=0
)
_DROPS = flags.DEFINE_list(
    "learning_rate_drops",
    ["0.5", "0.75"],
    "Fractions of the run after which the learning rate of the peers' SGD optimizer is "
    "multiplied by 0.1.",
)
_DECAY_MODE = flags.DEFINE_string(
    "decay_mode",
    "coupled",
    "The weight decay of every optimizer: coupled adds decay * weight to the gradient, "
    "as PyTorch does; decoupled shrinks the weight by learning rate * decay, as Keras "
    "does.",
)

# The dynamic scale of a 16-bit loss, as usual: halved by a gradient that is not
# finite, doubled after so many steps without one.
_FIRST_SCALE = 2.0**15
_STEPS_TO_DOUBLE = 2000.0


class _FusedUpdate:
    """The part that both optimizers share. Gradients come summed over the replicas.

    Attributes:
      scales_loss: whether the loss is multiplied by `loss_scale`, and a step whose
        gradients are not finite is left out (the count of steps goes on). To be set
        before `build`. Keras' own wrapper asks one replica only.
    """

    def __init__(self, learning_rate, decay: float, decay_mode: str, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.decay = decay
        self.decay_mode = decay_mode
        self.scales_loss = False
        self._finite = None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state."""
        super().build(variables)
        if self.scales_loss:
            self._scale = self.add_variable(
                (), initializer=keras.initializers.Constant(_FIRST_SCALE), name="scale"
            )
            self._good_steps = self.add_variable((), name="good_steps")

    @property
    def loss_scale(self) -> tf.Tensor:
        """The factor of the loss, float32; 1 unless `scales_loss`."""
        if self.scales_loss:
            return tf.convert_to_tensor(self._scale)
        return tf.constant(1.0)

    def apply_scaled(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> tf.Tensor:
        """Applies gradients of the scaled loss, and moves the scale.

        Returns:
          the norm of the gradients without their scale; 0 for a step left out.
        """
        if not self.scales_loss:
            self.apply(gradients, variables)
            return tf.linalg.global_norm(gradients)
        scale = self.loss_scale
        gradients = [gradient / scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        self._finite = tf.math.is_finite(norm)
        self.apply(gradients, variables)
        good = tf.where(self._finite, self._good_steps + 1.0, 0.0)
        grown = tf.where(good >= _STEPS_TO_DOUBLE, 2.0 * scale, scale)
        # Every replica has the same sum of gradients, and moves its own copy.
        _assign(self._scale, tf.where(self._finite, grown, scale / 2.0))
        _assign(self._good_steps, tf.where(good >= _STEPS_TO_DOUBLE, 0.0, good))
        return tf.where(self._finite, norm, 0.0)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        def update():
            self._update(grads, trainable_variables, learning_rate)

        if self.scales_loss:
            tf.cond(self._finite, update, lambda: None)
        else:
            update()

    def _update(self, grads, trainable_variables, learning_rate):
        learning_rate = tf.convert_to_tensor(learning_rate, tf.float32)
        constants = self._constants(learning_rate)
        coupled = self.decay if self.decay_mode == "coupled" else 0.0
        for loss_gradient, variable in zip(grads, trainable_variables, strict=True):
            gradient = loss_gradient
            if coupled:
                gradient += coupled * variable
            elif self.decay:
                tf.raw_ops.AssignSubVariableOp(
                    resource=variable.value.handle,
                    value=learning_rate * self.decay * variable,
                )
            # The handle is the replica's own copy; every replica applies the same
            # sum, so all copies stay equal without another exchange.
            self._fused(
                self._get_variable_index(variable), variable, gradient, constants
            )


def _assign(variable: keras.Variable, value: tf.Tensor) -> None:
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)


class SGD(_FusedUpdate, keras.optimizers.SGD):
    """`b = m b + g; w -= lr b`, with Nesterov `w -= lr (g + m b)` (torch.optim.SGD)."""

    def _constants(self, learning_rate):
        return learning_rate

    def _fused(self, index, variable, gradient, learning_rate):
        if not self.momentum:
            # Keras keeps no buffers then.
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.value.handle, alpha=learning_rate, delta=gradient
            )
            return
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.value.handle,
            accum=self.momentums[index].value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )


class Adam(_FusedUpdate, keras.optimizers.Adam):
    """`w -= lr m_hat / (sqrt(v_hat) + epsilon)` (torch.optim.Adam; Kingma and Ba)."""

    def _constants(self, learning_rate):
        step = tf.cast(self.iterations + 1, tf.float32)
        first, second = tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
        # The kernel adds epsilon before the bias correction, PyTorch after it.
        return first, second, learning_rate, self.epsilon * tf.sqrt(1.0 - second)

    def _fused(self, index, variable, gradient, constants):
        first, second, learning_rate, epsilon = constants
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=first,
            beta2_power=second,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=epsilon,
            grad=gradient,
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one objective is optimized over a whole run.

    Attributes:
      kind: "sgd" or "adam".
      learning_rate: the first one.
      decay: L2 factor, on all variables of the objective.
      decay_mode: "coupled" (added to the gradient, PyTorch) or "decoupled" (the
        variable shrinks by learning rate * decay, Keras and AdamW).
      drops: parts of the run, 0..1, after which the learning rate is multiplied.
      drop_factor: by this.
      momentum: of SGD.
      nesterov: of SGD.

    Raises:
      UserError: an unknown kind or decay mode.
    """

    kind: str
    learning_rate: float
    decay: float
    decay_mode: str = "coupled"
    drops: Sequence[float] = (0.5, 0.75)
    drop_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown_name("optimizer", self.kind, KINDS)
        if self.decay_mode not in DECAY_MODES:
            raise unknown_name("decay mode", self.decay_mode, DECAY_MODES)

    def build(
        self, epochs: int, steps_per_epoch: int, name: str
    ) -> keras.optimizers.Optimizer:
        """Returns the optimizer, not yet built on variables."""
        schedule = StepDecay(
            self.learning_rate, self.drops, self.drop_factor, epochs, steps_per_epoch
        )
        shared = {"decay": self.decay, "decay_mode": self.decay_mode, "name": name}
        if self.kind == "sgd":
            return SGD(
                schedule, momentum=self.momentum, nesterov=self.nesterov, **shared
            )
        return Adam(schedule, epsilon=1e-8, **shared)


SGD_RECIPE = Recipe("sgd", learning_rate=0.1, decay=1e-4)


def sgd_recipe_from_flags() -> Recipe:
    """Returns the recipe of the peers' SGD optimizer from the command line.

    Raises:
      UserError: a learning-rate drop is no number in 0..1.
    """
    return Recipe(
        "sgd",
        learning_rate=_LEARNING_RATE.value,
        decay=_WEIGHT_DECAY.value,
        decay_mode=decay_mode_from_flags(),
        drops=drops_from(_DROPS),
        momentum=_MOMENTUM.value,
        nesterov=_NESTEROV.value,
    )


def decay_mode_from_flags() -> str:
    """Returns --decay_mode, which all optimizers share; `Recipe` checks it."""
    return _DECAY_MODE.value


def drops_from(flag: flags.FlagHolder) -> tuple[float, ...]:
    """Returns the numbers of a list flag.

    Raises:
      UserError: one is no number.
    """
    try:
        return tuple(float(part) for part in flag.value)
    except ValueError as error:
        raise UserError(
            f"--{flag.name}={','.join(flag.value)} should be numbers between 0 and 1 "
            "with commas between them, e.g. 0.5,0.75."
        ) from error
