"""The whole AFD step against NumPy, and what each of its objectives may touch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.recipes import Recipe
from afd_tf.models import PeerOutput, build_peer
from tests import tiny

EPOCHS, STEPS_PER_EPOCH = 4, 1
SGD = Recipe("sgd", learning_rate=0.05, decay=1e-2)
ADAM = Recipe("adam", learning_rate=1e-3, decay=0.1, drops=(0.25, 0.5))


def build(names, variant=AdversarialFeatureDistillation, **settings):
    return with_peers(tiny.peers(*names), variant, **settings)


def with_peers(peers, variant=AdversarialFeatureDistillation, **settings):
    method = variant(peers, recipe=SGD, adversarial_recipe=ADAM, **settings)
    method.compile(epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    return method


def small_peers(widths):
    """Peers whose maps are [B, 2, 2, width]."""
    info = tiny.info()
    settings = {"mean": info.mean, "variance": info.variance}
    keras.utils.set_random_seed(0)
    peers = [
        tiny.SmallPeer((8, width), (2, 2), num_classes=tiny.CLASSES, **settings)
        for width in widths
    ]
    for peer in peers:
        peer.build_for(info.image_shape)
    return peers


class NumpySGD:
    """torch.optim.SGD: coupled decay, momentum holds gradients."""

    def __init__(self, recipe, weights):
        self.recipe = recipe
        self.buffers = [np.zeros(weight.shape) for weight in weights]

    def updated(self, weights, gradients, learning_rate, step):
        del step
        result = []
        for index, (weight, gradient) in enumerate(
            zip(weights, gradients, strict=True)
        ):
            decayed = gradient + self.recipe.decay * weight
            self.buffers[index] = 0.9 * self.buffers[index] + decayed
            result.append(weight - learning_rate * self.buffers[index])
        return result


class NumpyAdam:
    """torch.optim.Adam: coupled decay, epsilon after the bias correction."""

    def __init__(self, recipe, weights):
        self.recipe = recipe
        self.first = [np.zeros(weight.shape) for weight in weights]
        self.second = [np.zeros(weight.shape) for weight in weights]

    def updated(self, weights, gradients, learning_rate, step):
        result = []
        for index, (weight, gradient) in enumerate(
            zip(weights, gradients, strict=True)
        ):
            decayed = gradient + self.recipe.decay * weight
            self.first[index] = 0.9 * self.first[index] + 0.1 * decayed
            self.second[index] = 0.999 * self.second[index] + 0.001 * decayed**2
            first = self.first[index] / (1 - 0.9 ** (step + 1))
            second = self.second[index] / (1 - 0.999 ** (step + 1))
            result.append(weight - learning_rate * first / (np.sqrt(second) + 1e-8))
        return result


def learning_rate(recipe, step):
    epoch = step // STEPS_PER_EPOCH
    passed = sum(epoch >= round(drop * EPOCHS) for drop in recipe.drops)
    return recipe.learning_rate * 0.1**passed


class Oracle:
    """One AFD step: the networks' own forward and backward from TensorFlow.

    Losses, their derivatives by logits and scores, who meets whom, the mean over the
    batch, decay, moments and schedules are by hand. It works on its own copy of the
    networks.
    """

    def __init__(self, widths, method, teachers, settings):
        self.teachers = teachers
        # Built like the method's, so in the same order; then given its weights.
        self.copy = AdversarialFeatureDistillation(small_peers(widths), **settings)
        for mine, other in zip(self.copy.variables, method.variables, strict=True):
            mine.assign(other)
        count = len(widths)
        weights = self.groups()
        self.optimizers = [
            (NumpySGD if number < count else NumpyAdam)(
                SGD if number < count else ADAM, [v.value.numpy() for v in group]
            )
            for number, group in enumerate(weights)
        ]

    def groups(self):
        copy = self.copy
        features = []
        for number, peer in enumerate(copy.peers):
            group = [
                v
                for v in peer.trainable_variables
                if not any(v is w for w in peer.classifier.trainable_variables)
            ]
            if copy.transfer_layers:
                group = group + copy.transfer_layers[number].trainable_variables
            features.append(group)
        return (
            [peer.trainable_variables for peer in copy.peers]
            + [d.trainable_variables for d in copy.discriminators]
            + features
        )

    def step(self, batch, step, temperature=3.0):
        copy, size = self.copy, len(batch["label"])
        count = len(copy.peers)
        with tf.GradientTape(persistent=True) as tape:
            outputs = [peer(batch["image"], training=True) for peer in copy.peers]
            maps = [output.features for output in outputs]
            if copy.transfer_layers:
                maps = [
                    layer(m, training=True)
                    for layer, m in zip(copy.transfer_layers, maps, strict=True)
                ]
            fakes, reals = [], []
            for own, d in enumerate(copy.discriminators):
                shown = [maps[own], *(maps[teacher] for teacher in self.teachers[own])]
                if copy.joint_normalization:
                    together = d(tf.concat(shown, axis=0), training=True)
                    scores = tf.split(together, len(shown))
                else:
                    scores = [d(each, training=True) for each in shown]
                fakes.append(scores[0])
                reals.append(scores[1:])
        logits = [output.logits.numpy().astype(np.float64) for output in outputs]
        onehot = np.eye(tiny.CLASSES)[batch["label"].numpy()]
        groups = self.groups()
        gradients, losses = [], {}

        def back(targets, by_hand, variables):
            """Chain rule: derivatives by hand, Jacobians from TensorFlow."""
            found = tape.gradient(
                targets,
                [v.value for v in variables],
                output_gradients=[tf.constant(d, tf.float32) for d in by_hand],
            )
            return [np.asarray(g, np.float64) for g in found]

        for k in range(count):
            p = tiny.softmax(logits[k])
            soft = tiny.softmax(logits[k] / temperature)
            derivative = (p - onehot) / size
            loss = -np.log((p * onehot).sum(axis=1))
            for j in self.teachers[k]:
                target = tiny.softmax(logits[j] / temperature)
                share = 1 / len(self.teachers[k])
                divergence = (target * np.log(target / soft)).sum(axis=1)
                loss = loss + share * temperature**2 * divergence
                # d/dz of T^2 KL(p_j || tiny.softmax(z / T)) = T (softmax(z / T) - p_j)
                derivative += share * temperature * (soft - target) / size
            losses[f"peer_{k}/loss_logit"] = loss.mean()
            gradients.append(back([outputs[k].logits], [derivative], groups[k]))
        for k in range(count):
            fake = fakes[k].numpy().astype(np.float64)
            share = 1 / len(reals[k])
            loss, by_hand = fake**2, [2 * fake / size]
            for real in [score.numpy().astype(np.float64) for score in reals[k]]:
                loss = loss + share * (1 - real) ** 2
                by_hand.append(-2 * share * (1 - real) / size)
            losses[f"peer_{k}/loss_discriminator"] = loss.mean()
            gradients.append(back([fakes[k], *reals[k]], by_hand, groups[count + k]))
        for k in range(count):
            fake = fakes[k].numpy().astype(np.float64)
            losses[f"peer_{k}/loss_feature"] = ((1 - fake) ** 2).mean()
            by_hand = [-2 * (1 - fake) / size]
            gradients.append(back([fakes[k]], by_hand, groups[2 * count + k]))
        for optimizer, group, gradient in zip(
            self.optimizers, groups, gradients, strict=True
        ):
            weights = [v.value.numpy().astype(np.float64) for v in group]
            rate = learning_rate(optimizer.recipe, step)
            for variable, weight in zip(
                group, optimizer.updated(weights, gradient, rate, step), strict=True
            ):
                variable.assign(weight.astype(np.float32))
        return losses


@pytest.mark.parametrize(
    ("widths", "topology", "teachers", "settings"),
    [
        # Equal channels: no transfer layers.
        ((16, 16), "cyclic", [[1], [0]], {}),
        ((16, 24), "mutual", [[1], [0]], {}),
        ((16, 16, 16), "cyclic", [[2], [0], [1]], {}),
        ((16, 16, 16), "mutual", [[1, 2], [0, 2], [0, 1]], {}),
        ((16, 16), "cyclic", [[1], [0]], {"discriminator": "large"}),
        (
            (16, 16, 16),
            "mutual",
            [[1, 2], [0, 2], [0, 1]],
            {"joint_normalization": True},
        ),
    ],
)
def test_five_steps_agree_with_numpy(widths, topology, teachers, settings):
    method = with_peers(small_peers(widths), topology=topology, **settings)
    oracle = Oracle(widths, method, teachers, settings)
    step = tf.function(method.take_step, autograph=False)
    for number in range(5):
        batch = tiny.batch(seed=number)
        expected = oracle.step(batch, number)
        metrics = step(batch)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5)
        for mine, other in zip(oracle.copy.variables, method.variables, strict=True):
            np.testing.assert_allclose(
                other.value.numpy(),
                mine.value.numpy(),
                rtol=1e-5,
                atol=1e-5,
                err_msg=f"step {number}: {other.path}",
            )


def changed(before, variables):
    return [
        not np.array_equal(old, new.value.numpy())
        for old, new in zip(before, variables, strict=True)
    ]


@pytest.mark.parametrize("kind", ["logit", "discriminator", "feature"])
def test_each_objective_moves_only_its_own_variables(kind):
    method = with_peers(small_peers([8, 12]))
    method.objectives = [o for o in method.objectives if o.name.endswith(kind)]
    own = {id(v) for o in method.objectives for v in o.variables}
    trainable = method.trainable_variables
    before = tiny.values(trainable)
    method.take_step(tiny.batch())
    for variable, moved in zip(trainable, changed(before, trainable), strict=True):
        assert moved == (id(variable) in own), variable.path
    heads = {id(v) for p in method.peers for v in p.classifier.trainable_variables}
    assert bool(own & heads) == (kind == "logit")


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
def test_batch_statistics_move_once_a_step(order):
    method = with_peers(tiny.small_peers(), update_order=order)
    batch = tiny.batch()
    copies = tiny.small_peers()
    for copy in copies:
        copy(batch["image"], training=True)
    method.take_step(batch)
    for copy, peer in zip(copies, method.peers, strict=True):
        for expected, moved in zip(
            copy.non_trainable_variables, peer.non_trainable_variables, strict=True
        ):
            np.testing.assert_allclose(
                moved.value.numpy(),
                expected.value.numpy(),
                rtol=1e-6,
                err_msg=moved.path,
            )


def test_sequential_takes_feature_gradients_after_the_logit_update():
    method = with_peers(tiny.small_peers(), update_order="sequential")
    batch = tiny.batch()
    metrics = method.take_step(batch)
    other = with_peers(tiny.small_peers())
    logit_only = [o for o in other.objectives if o.name.endswith("logit")]
    other.objectives = logit_only
    other.take_step(batch)
    features = other.peers[0](batch["image"], training=True).features
    fake = other.discriminators[0](features, training=True)
    np.testing.assert_allclose(
        metrics["peer_0/loss_feature"], np.mean((1 - fake.numpy()) ** 2), rtol=1e-4
    )
    # The logit update moves the map far enough for the test to tell the orders apart.
    simultaneous = with_peers(tiny.small_peers()).take_step(batch)
    assert (
        abs(metrics["peer_0/loss_feature"] - simultaneous["peer_0/loss_feature"]) > 1e-3
    )


class Recorder(keras.layers.Layer):
    """Stands in for a discriminator and notes which maps it is shown."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=())
        self.seen = []

    def call(self, maps, training=False):
        self.seen.append(float(tf.reduce_mean(maps)))
        return tf.fill([tf.shape(maps)[0]], 0.5) + 0.0 * self.scale


@pytest.mark.parametrize(
    ("count", "topology", "reals"),
    [
        (2, "cyclic", [[1], [0]]),
        (3, "cyclic", [[2], [0], [1]]),
        (3, "mutual", [[1, 2], [0, 2], [0, 1]]),
        (4, "cyclic", [[3], [0], [1], [2]]),
    ],
)
def test_discriminators_are_shown_the_right_maps(count, topology, reals):
    method = AdversarialFeatureDistillation(tiny.small_peers(count), topology=topology)
    method.discriminators = [Recorder() for _ in range(count)]
    outputs = [
        PeerOutput(
            tf.fill([8, 2, 2, 64], float(planted)), tf.zeros([8, tiny.CLASSES]), {}
        )
        for planted in range(count)
    ]
    method.feature_losses(tiny.batch()["label"], outputs)
    for number, recorder in enumerate(method.discriminators):
        assert recorder.seen[0] == number  # fake: the own map
        assert recorder.seen[1:] == reals[number]


def test_without_adversarial_part_it_is_mutual_learning():
    batch = tiny.batch()
    afd = with_peers(tiny.small_peers(), adversarial_weight=0.0)
    dml = MutualLearning(tiny.small_peers(), recipe=SGD)
    dml.compile(epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    afd.take_step(batch)
    dml.take_step(batch)
    for mine, other in zip(afd.variables, dml.variables, strict=True):
        np.testing.assert_array_equal(mine.value.numpy(), other.value.numpy())


def test_unequal_maps_are_averaged_down_to_the_smallest():
    peers = tiny.peers("resnet8", "wrn_10_1", "resnet8")
    # 2x2 each in truth; what the method sees is planted.
    for peer, size in zip(peers, ((8, 6), (4, 6), (5, 3)), strict=True):
        peer.tap_shapes = {"stage_3": (*size, 64)}
    method = AdversarialFeatureDistillation(peers)
    assert not method.transfer_layers
    shown = []
    method.discriminators = [
        lambda maps, training: shown.append(maps) or tf.zeros([8]) for _ in peers
    ]
    outputs = tiny.planted(*peers)
    method.feature_losses(tiny.batch()["label"], outputs)
    expected = [tiny.pooled(output.features, (4, 3)) for output in outputs]
    for number, teacher in enumerate((2, 0, 1)):
        fake, real = shown[2 * number : 2 * number + 2]
        np.testing.assert_allclose(fake, expected[number], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(real, expected[teacher], rtol=1e-5, atol=1e-6)


def test_one_step_with_unequal_maps():
    # VGG halves three times, the ResNet twice.
    info = tiny.info((64, 64, 3))
    peers = [build_peer(name, info) for name in ("vgg8", "resnet8")]
    assert [peer.feature_shape for peer in peers] == [(8, 8, 512), (16, 16, 64)]
    method = AdversarialFeatureDistillation(peers, recipe=SGD, adversarial_recipe=ADAM)
    method.compile(epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    before = tiny.values(method.trainable_variables)
    metrics = method.take_step(tiny.batch(size=4, image_shape=(64, 64, 3)))
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(changed(before, method.trainable_variables))


def test_refuses_one_peer():
    with pytest.raises(UserError, match="two or more"):
        AdversarialFeatureDistillation(tiny.small_peers(1))
