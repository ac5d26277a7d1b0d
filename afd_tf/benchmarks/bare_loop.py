"""AFD of two ResNets as a bare loop, beside which the product's speed is measured.

The same mathematics written by hand for this one case, on one fixed batch, without
metrics, schedules or names.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.models.resnet import ResNet


class BareNetwork:
    """A network of bare variables, copied from those of Keras layers.

    Attributes:
      trained: variables of the convolutional part, or of a whole discriminator.
      head: variables of a peer's classifier.
    """

    def __init__(self):
        self.trained: list[tf.Variable] = []
        self.head: list[tf.Variable] = []

    def variable(self, source, head: bool = False) -> tf.Variable:
        """Returns a copy of a Keras variable and registers it as one to train."""
        variable = tf.Variable(source.value)
        (self.head if head else self.trained).append(variable)
        return variable

    def normalization(self, layer) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns fused batch normalization that updates its moving statistics."""
        gamma, beta = self.variable(layer.gamma), self.variable(layer.beta)
        moving = [
            tf.Variable(layer.moving_mean.value),
            tf.Variable(layer.moving_variance.value),
        ]

        def normalize(values):
            result = tf.raw_ops.FusedBatchNormV3(
                x=values,
                scale=gamma,
                offset=beta,
                mean=[],
                variance=[],
                epsilon=1e-5,
                is_training=True,
            )
            for kept, batch in zip(
                moving, (result.batch_mean, result.batch_variance), strict=True
            ):
                kept.assign_sub(0.1 * (kept - batch))
            return result.y

        return normalize

    def convolution(self, layer, strides: int) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns a "same" convolution without bias."""
        kernel = self.variable(layer.kernel)
        return lambda values: tf.nn.conv2d(values, kernel, strides, "SAME")

    def block(self, block, strides):
        """Returns convolution and normalization."""
        convolve = self.convolution(block.convolution, strides)
        normalize = self.normalization(block.normalization)
        return lambda values: normalize(convolve(values))


class BareResNet(BareNetwork):
    """A CIFAR ResNet by hand: images → (features, logits)."""

    def __init__(self, peer: ResNet):
        super().__init__()
        deviation = np.sqrt(peer.normalization.variance)
        self.mean = np.float32(peer.normalization.mean)
        self.deviation = np.float32(deviation)
        stem, *stages = peer.body.values()
        self.stem = self.block(stem, 1)
        self.blocks = []
        for number, stage in enumerate(stages):
            for index, block in enumerate(stage.layers):
                strides = 2 if number and not index else 1
                parts = [self.block(block.first, strides), self.block(block.second, 1)]
                if block.shortcut:
                    parts.append(self.block(block.shortcut, strides))
                self.blocks.append(parts)
        self.kernel = self.variable(peer.classifier.kernel, head=True)
        self.bias = self.variable(peer.classifier.bias, head=True)

    def __call__(self, images):
        """Runs the network in training mode."""
        values = (tf.cast(images, tf.float32) - self.mean) / self.deviation
        values = tf.nn.relu(self.stem(values))
        for first, second, *shortcut in self.blocks:
            residual = second(tf.nn.relu(first(values)))
            values = shortcut[0](values) if shortcut else values
            values = tf.nn.relu(residual + values)
        pooled = tf.reduce_mean(values, (1, 2))
        return values, pooled @ self.kernel + self.bias


class BareDiscriminator(BareNetwork):
    """A discriminator by hand: maps → scores."""

    def __init__(self, discriminator):
        super().__init__()
        (block,) = discriminator.hidden
        self.hidden = self.block(block, 2)
        self.kernel = self.variable(discriminator.score.kernel)
        self.bias = self.variable(discriminator.score.bias)

    def __call__(self, maps):
        """Runs the network in training mode."""
        hidden = tf.nn.leaky_relu(self.hidden(maps), 0.2)
        return tf.sigmoid(tf.nn.conv2d(hidden, self.kernel, 1, "VALID") + self.bias)


class BareTraining:
    """AFD of two equally wide ResNets, with the recipe of `afd_tf.distill.methods.afd`.

    Args:
      method: its weights are copied.
    """

    def __init__(self, method: AdversarialFeatureDistillation):
        self.peers = [BareResNet(peer) for peer in method.peers]
        self.discriminators = [BareDiscriminator(d) for d in method.discriminators]
        self.sgd_groups = [peer.trained + peer.head for peer in self.peers]
        self.momenta = [_zeros(group) for group in self.sgd_groups]
        self.adam_groups = [
            each.trained for each in (*self.discriminators, *self.peers)
        ]
        self.moments = [(_zeros(group), _zeros(group)) for group in self.adam_groups]
        self.iterations = tf.Variable(0.0)

    def step(self, images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        """Takes one step.

        Args:
          images: uint8 [B, h, w, c].
          labels: int32 [B].

        Returns:
          the mean logit loss of each peer before the step.
        """
        with tf.GradientTape(persistent=True) as tape:
            logit, discriminator, feature = self._losses(images, labels)
        sgd_gradients = [
            tape.gradient(loss, group)
            for loss, group in zip(logit, self.sgd_groups, strict=True)
        ]
        adam_gradients = [
            tape.gradient(loss, group)
            for loss, group in zip(
                (*discriminator, *feature), self.adam_groups, strict=True
            )
        ]
        for group, gradients, momenta in zip(
            self.sgd_groups, sgd_gradients, self.momenta, strict=True
        ):
            _apply_sgd(group, gradients, momenta)
        self.iterations.assign_add(1.0)
        for group, gradients, (means, squares) in zip(
            self.adam_groups, adam_gradients, self.moments, strict=True
        ):
            _apply_adam(group, gradients, means, squares, self.iterations)
        return logit

    def _losses(self, images, labels):
        """Returns L_logit, L_D and L_G of each peer."""
        mean = tf.reduce_mean
        outputs = [peer(images) for peer in self.peers]
        logit, discriminator, feature = [], [], []
        for own, other in ((0, 1), (1, 0)):
            features, logits = outputs[own]
            target = tf.nn.softmax(tf.stop_gradient(outputs[other][1]) / 3.0)
            log = tf.math.log(target) - tf.nn.log_softmax(logits / 3.0)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            logit.append(mean(entropy + 9.0 * tf.reduce_sum(target * log, -1)))
            fake = self.discriminators[own](features)
            real = self.discriminators[own](tf.stop_gradient(outputs[other][0]))
            discriminator.append(mean((1.0 - real) ** 2 + fake**2))
            feature.append(mean((1.0 - fake) ** 2))
        return logit, discriminator, feature

    def loop(self, images: tf.Tensor, labels: tf.Tensor) -> Callable[[int], None]:
        """Returns a function that takes a number of steps on one batch and waits."""

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)])
        def run_steps(steps):
            def body(count):
                self.step(images, labels)
                return (count + 1,)

            (taken,) = tf.while_loop(
                lambda count: count < steps, body, (tf.constant(0),)
            )
            return taken

        return lambda steps: run_steps(tf.constant(steps)).numpy()


def _zeros(variables: Sequence[tf.Variable]) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros_like(variable)) for variable in variables]


def _apply_sgd(
    variables: Sequence[tf.Variable],
    gradients: Sequence[tf.Tensor],
    momenta: Sequence[tf.Variable],
) -> None:
    for variable, gradient, momentum in zip(variables, gradients, momenta, strict=True):
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=0.1,
            grad=gradient + 1e-4 * variable,
            momentum=0.9,
        )


def _apply_adam(
    variables: Sequence[tf.Variable],
    gradients: Sequence[tf.Tensor],
    means: Sequence[tf.Variable],
    squares: Sequence[tf.Variable],
    iterations: tf.Variable,
) -> None:
    first = tf.pow(0.9, iterations)
    second = tf.pow(0.999, iterations)
    for variable, gradient, mean, square in zip(
        variables, gradients, means, squares, strict=True
    ):
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=first,
            beta2_power=second,
            lr=2e-5,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8 * tf.sqrt(1.0 - second),
            grad=gradient + 0.1 * variable,
        )
