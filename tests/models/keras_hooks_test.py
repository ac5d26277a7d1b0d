"""The private or undocumented parts of Keras that this project relies on.

After an update of Keras, a failure here names the file that has to change with it.
"""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.distill.optimizers import SGD, Adam
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.stage import Composite, Stage
from tests import tiny

OPTIMIZERS = "afd_tf/distill/optimizers.py"
QUANTIZATION = "afd_tf/artifacts/quantization.py"
STAGE = "afd_tf/models/stage.py"
METHOD = "afd_tf/distill/method.py"
HANDLES = (
    "afd_tf/models/batch_normalization.py, afd_tf/distill/collectives.py and "
    "afd_tf/distill/optimizers.py"
)
VALUES = "afd_tf/training/checkpoints.py and afd_tf/artifacts/saved_model.py"

GRADIENTS = ([1.0, -2.0], [[3.0, 4.0, 5.0]])


@pytest.fixture(
    params=[functools.partial(SGD, momentum=0.9), Adam], ids=["SGD", "Adam"]
)
def optimizer(request):
    """One of our optimizers, and the variables that it is built on."""
    variables = [
        keras.Variable(np.ones_like(values), dtype="float32") for values in GRADIENTS
    ]
    built = request.param(0.1, decay=0.0, decay_mode="coupled")
    built.build(variables)
    return built, variables


def test_apply_calls_our_update(optimizer, monkeypatch):
    optimizer, variables = optimizer
    ours = optimizer._backend_update_step
    calls = []

    def record(grads, trainable_variables, learning_rate):
        steps = int(optimizer.iterations.numpy())
        calls.append((list(grads), list(trainable_variables), learning_rate, steps))
        ours(grads, trainable_variables, learning_rate)

    monkeypatch.setattr(optimizer, "_backend_update_step", record)
    gradients = [tf.constant(values) for values in GRADIENTS]
    optimizer.apply(gradients, variables)
    assert len(calls) == 1, (
        f"`Optimizer.apply` no longer calls `_backend_update_step`: see {OPTIMIZERS}"
    )
    given, moved, learning_rate, steps = calls[0]
    for one, other in zip(given, gradients, strict=True):
        np.testing.assert_array_equal(
            one, other, f"`apply` changes gradients before the update: see {OPTIMIZERS}"
        )
    assert all(one is other for one, other in zip(moved, variables, strict=True)), (
        f"the update no longer gets the Keras variables: see {OPTIMIZERS}"
    )
    assert float(learning_rate) == pytest.approx(0.1), OPTIMIZERS
    assert (steps, int(optimizer.iterations.numpy())) == (0, 1), (
        f"`iterations` no longer moves after the update, as Adam expects: {OPTIMIZERS}"
    )
    for variable in variables:
        assert (variable.numpy() != 1).all(), f"nothing was updated: see {OPTIMIZERS}"


def test_kerass_own_update_has_our_signature():
    for kind in (SGD, Adam):
        # Behind our classes in the order of resolution.
        theirs = next(
            vars(base)["_backend_update_step"]
            for base in kind.__mro__
            if base.__module__.startswith("keras.")
            and "_backend_update_step" in vars(base)
        )
        assert list(inspect.signature(theirs).parameters) == list(
            inspect.signature(kind._backend_update_step).parameters
        ), f"Keras calls `_backend_update_step` with other arguments: {OPTIMIZERS}"


def test_moments_are_found_by_the_index_of_their_variable(optimizer):
    optimizer, variables = optimizer
    names = {SGD: ["momentums"], Adam: ["_momentums", "_velocities"]}[type(optimizer)]
    state = {id(variable) for variable in optimizer.variables}
    for name in names:
        assert hasattr(optimizer, name), f"no {name} any more: see {OPTIMIZERS}"
        moments = getattr(optimizer, name)
        for number, variable in enumerate(variables):
            assert optimizer._get_variable_index(variable) == number, OPTIMIZERS
            assert moments[number].shape == variable.shape, f"{name}: see {OPTIMIZERS}"
            np.testing.assert_array_equal(moments[number], 0.0 * variable)
            assert id(moments[number]) in state, (
                f"checkpoints of the optimizer miss its {name}: see {OPTIMIZERS}"
            )
    optimizer.apply([tf.constant(values) for values in GRADIENTS], variables)
    for name in names:
        for moment in getattr(optimizer, name):
            assert (moment.numpy() != 0).all(), f"{name} do not move: see {OPTIMIZERS}"


def test_the_value_of_a_variable_is_a_tensorflow_variable():
    variable = keras.Variable([1.0, 2.0])
    assert isinstance(variable.value, tf.Variable), f"see {VALUES}"
    tf.raw_ops.AssignVariableOp(
        resource=variable.value.handle, value=tf.constant([3.0, 4.0])
    )
    np.testing.assert_array_equal(
        variable, [3.0, 4.0], f"the handle is another variable's: see {HANDLES}"
    )


def test_the_handle_is_the_copy_of_the_replica_that_asks():
    # `tests/distill/replicas_test.py` tries several replicas; this is the hook alone.
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable = keras.Variable([1.0, 2.0])

    @tf.function(autograph=False)
    def step():
        def assign():
            tf.raw_ops.AssignVariableOp(
                resource=variable.value.handle, value=tf.constant([3.0, 4.0])
            )

        strategy.run(assign)

    step()
    (copy,) = strategy.experimental_local_results(variable.value)
    np.testing.assert_array_equal(copy, [3.0, 4.0], f"see {HANDLES}")


def test_flatten_layers_finds_every_block_at_any_depth():
    (peer,) = tiny.peers("resnet8")
    assert hasattr(peer, "_flatten_layers"), f"see {QUANTIZATION}"
    blocks = [
        layer for layer in peer._flatten_layers() if isinstance(layer, ConvolutionBlock)
    ]
    found = [id(block.convolution.kernel) for block in blocks]
    expected = [id(each) for each in peer.trainable_variables if len(each.shape) == 4]
    assert sorted(found) == sorted(expected), f"see {QUANTIZATION}"


def test_call_can_be_replaced_on_one_layer_for_a_while():
    layer = keras.layers.Conv2D(2, 1, use_bias=False)
    images = tf.random.stateless_normal([1, 3, 3, 2], [1, 2])
    before = layer(images)
    original = layer.call
    layer.call = lambda inputs: 2.0 * original(inputs)
    np.testing.assert_array_equal(
        layer(images), 2.0 * before, f"`__call__` takes the class's: see {QUANTIZATION}"
    )
    del layer.call
    np.testing.assert_array_equal(layer(images), before, f"see {QUANTIZATION}")


def test_convolution_op_takes_another_kernel():
    layer = keras.layers.Conv2D(2, 3, padding="same", use_bias=False)
    images = tf.random.stateless_normal([1, 4, 4, 2], [1, 2])
    expected = 3.0 * layer(images)
    np.testing.assert_allclose(
        layer.convolution_op(images, 3.0 * layer.kernel),
        expected,
        rtol=1e-5,
        atol=1e-6,
        err_msg=f"see {QUANTIZATION}",
    )


def test_a_layer_with_a_build_is_not_called_symbolically():
    calls = []

    class Counted(Composite):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)

        def call(self, inputs, training=False):
            calls.append(type(inputs))
            return self.inner(inputs)

    layer = Stage([Stage([Counted()])])
    layer(tf.zeros([1, 2]))
    assert len(calls) == 1, f"Keras calls a `Composite` to build it: see {STAGE}"
    assert len(layer.trainable_variables) == 2, f"see {STAGE}"


def test_foreign_models_have_the_parts_that_are_changed_in_them():
    inputs = keras.Input((4, 4, 3))
    layer, dropout = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    model = keras.Model(inputs, dropout(layer(inputs)))
    graph, adoption = "afd_tf/models/keras_graph.py", "afd_tf/models/adoption.py"
    assert hasattr(model, "_run_through_graph"), f"see {graph}"
    assert sorted(model._nodes_by_depth) == [0, 1, 2], f"see {graph}"
    assert keras.Sequential([inputs, layer])._functional is not None, f"see {graph}"
    assert layer.autocast and not layer.gamma._autocast, f"see {adoption}"
    assert [v.name for v in dropout.variables] == ["seed_generator_state"]
    assert len(dropout._seed_generators) == 1, f"see {adoption}"
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.other = keras.Variable(1.0)
    layer._tracker.unlock()
    layer.other = keras.Variable(1.0)
    assert len(layer.variables) == 5, f"see {adoption}"


def test_the_networks_of_keras_download_through_one_function(monkeypatch):
    from keras.src.utils import file_utils

    def asked(fname, origin, **_):
        raise RuntimeError(f"{fname} of {origin}")

    monkeypatch.setattr(file_utils, "get_file", asked)
    with pytest.raises(RuntimeError, match=r"no_top\.h5 of https://"):
        keras.applications.MobileNet(include_top=False, input_shape=(32, 32, 3))
    assert file_utils.config.keras_home(), "see afd_tf/models/applications.py"


def test_fit_takes_up_a_training_function_that_is_made_anew():
    class Phases(keras.Model):
        phase = 0

        def train_step(self, batch):
            return {"phase": tf.constant(float(self.phase))}

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.phase = epoch
            self.model.make_train_function(force=True)

    model = Phases()
    model.compile(optimizer="sgd")
    batches = tf.data.Dataset.from_tensors({"image": tf.zeros([1, 2])}).repeat()
    history = model.fit(
        batches,
        epochs=2,
        steps_per_epoch=1,
        verbose=0,
        shuffle=False,
        callbacks=[Switch()],
    )
    assert history.history["phase"] == [0.0, 1.0], (
        f"the step of the warm-up goes on after it: see {METHOD}"
    )
