"""SGD and Adam as PyTorch computes them, one fused kernel per variable.

Keras' optimizers give the state, the schedules and the checkpoint; only the update
itself is ours, for three reasons. The weight decay of the recipes that this project
repeats is *coupled*: it is added to the gradient and so passes through momentum and
moments, while Keras' is decoupled and, for Adam at 2e-5, some 200 times weaker.
PyTorch's momentum holds gradients, not steps, so that a drop of the learning rate
acts at once. And Keras' updates are many small ops: most of the time that tracing a
training step takes.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

# The dynamic scale of a 16-bit loss, as usual: halved by a gradient that is not
# finite, doubled after so many steps without one.
_FIRST_SCALE = 2.0**15
_STEPS_TO_DOUBLE = 2000.0


class _FusedUpdate:
    """The part that both optimizers share. Gradients come summed over the replicas.

    Attributes:
      clip_norm: the largest norm of the gradients together; None is no limit.
      scales_loss: whether the loss is multiplied by `loss_scale`, and a step whose
        gradients are not finite is left out (the count of steps goes on). To be set
        before `build`. Keras' own wrapper asks one replica only.
      rate_factors: of the learning rate, one for each variable in the order of `build`;
        None is 1 for all.
    """

    def __init__(
        self,
        learning_rate,
        decay: float,
        decay_mode: str,
        clip_norm: float | None = None,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        self.clip_norm = clip_norm
        self.decay = decay
        self.decay_mode = decay_mode
        self.scales_loss = False
        self.rate_factors: tuple[float, ...] | None = None
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
        """Applies gradients of the scaled loss, clipped, and moves the scale.

        Returns:
          the norm of the gradients without their scale and before they are clipped; 0
          for a step left out.
        """
        if not self.scales_loss:
            norm = tf.linalg.global_norm(gradients)
            self.apply(self._clipped(gradients, norm), variables)
            return norm
        scale = self.loss_scale
        gradients = [gradient / scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        self._finite = tf.math.is_finite(norm)
        self.apply(self._clipped(gradients, norm), variables)
        good = tf.where(self._finite, self._good_steps + 1.0, 0.0)
        grown = tf.where(good >= _STEPS_TO_DOUBLE, 2.0 * scale, scale)
        # Every replica has the same sum of gradients, and moves its own copy.
        _assign(self._scale, tf.where(self._finite, grown, scale / 2.0))
        _assign(self._good_steps, tf.where(good >= _STEPS_TO_DOUBLE, 0.0, good))
        return tf.where(self._finite, norm, 0.0)

    def _clipped(
        self, gradients: Sequence[tf.Tensor], norm: tf.Tensor
    ) -> Sequence[tf.Tensor]:
        if self.clip_norm is None:
            return gradients
        return tf.clip_by_global_norm(gradients, self.clip_norm, norm)[0]

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        def update():
            self._update(grads, trainable_variables, learning_rate)

        if self.scales_loss:
            tf.cond(self._finite, update, lambda: None)
        else:
            update()

    def _update(self, grads, trainable_variables, learning_rate):
        learning_rate = tf.convert_to_tensor(learning_rate, tf.float32)
        factors = self.rate_factors or (1.0,) * len(trainable_variables)
        rates = {
            factor: learning_rate * factor if factor != 1.0 else learning_rate
            for factor in sorted(set(factors))
        }
        constants = {factor: self._constants(rate) for factor, rate in rates.items()}
        coupled = self.decay if self.decay_mode == "coupled" else 0.0
        for loss_gradient, variable in zip(grads, trainable_variables, strict=True):
            gradient = loss_gradient
            index = self._get_variable_index(variable)
            factor = factors[index]
            if coupled:
                gradient += coupled * variable
            elif self.decay:
                tf.raw_ops.AssignSubVariableOp(
                    resource=variable.value.handle,
                    value=rates[factor] * self.decay * variable,
                )
            # The handle is the replica's own copy; every replica applies the same
            # sum, so all copies stay equal without another exchange.
            self._fused(index, variable, gradient, constants[factor])


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
