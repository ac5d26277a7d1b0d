"""One training step: the gradient of every objective, applied by its own optimizer.

Gradients are taken from the forward passes that a method asks for, in microbatches, on
all replicas, under XLA where that is wanted. This is the one place that divides by the
global batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import tensorflow as tf
from absl import flags

from afd_tf.distill.collectives import (
    average_over_replicas,
    replicas,
    sum_over_replicas,
)
from afd_tf.distill.labels import Labels, labels_of
from afd_tf.distill.objective import Objective, Outputs, Pass
from afd_tf.models import Peer
from afd_tf.models.batch_normalization import training_mode

_SYNC_BATCH_NORM = flags.DEFINE_bool(
    "sync_batch_norm",
    True,
    "With several replicas, take batch statistics over all of them, so that the "
    "numbers are those of one replica; with --nosync_batch_norm each replica has its "
    "own, and their mean enters the moving statistics.",
)
_ACCUMULATE = flags.DEFINE_integer(
    "accumulate",
    1,
    "Split each batch into this many microbatches, which are processed one after the "
    "other for one update: less memory and the same gradient, but batch statistics of "
    "a microbatch.",
    lower_bound=1,
)
_REMAT = flags.DEFINE_bool(
    "remat",
    False,
    "Keep only the input of each block and recompute the rest for the gradient: less "
    "memory, more time, the same numbers.",
)
_JIT_COMPILE = flags.DEFINE_bool(
    "jit_compile",
    False,
    "Compile forward and backward passes with XLA; where replicas exchange something "
    "in them, such as batch statistics, the parts between the exchanges.",
)


@dataclasses.dataclass(frozen=True)
class Execution:
    """The way in which a step is computed; its result is the same in all of them.

    Attributes:
      accumulate: number of microbatches that a batch is split into.
      sync_batch_norm: whether batch statistics are those of all replicas.
      remat: whether blocks are recomputed for the gradient.
      jit_compile: whether XLA compiles forward and backward passes: on one replica as
        a whole; on several that exchange something meanwhile, between the exchanges,
        which takes TensorFlow's auto-clustering (`needs_auto_clustering`).
    """

    accumulate: int = 1
    sync_batch_norm: bool = True
    remat: bool = False
    jit_compile: bool = False


DEFAULT_EXECUTION = Execution()


def execution_from_flags() -> Execution:
    """Returns the execution that the command line describes."""
    return Execution(
        accumulate=_ACCUMULATE.value,
        sync_batch_norm=_SYNC_BATCH_NORM.value,
        remat=_REMAT.value,
        jit_compile=_JIT_COMPILE.value,
    )


class Learner(Protocol):
    """The parts of a method that a step needs; see `afd_tf.distill.method.Method`."""

    peers: Sequence[Peer]
    frozen_teachers: Sequence
    execution: Execution
    objectives: Sequence[Objective]
    losses_exchange: bool
    non_trainable_variables: Sequence

    def current_passes(self) -> Sequence[Pass]:
        """Returns the forward passes of a step in the present phase of the run."""

    def teacher_outputs(self, images: tf.Tensor) -> Outputs:
        """Returns the outputs of the frozen teachers."""


def take_step(learner: Learner, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Takes one step with every objective of the present phase of the run.

    All gradients of a pass are taken at the same weights and applied in the order of
    the objectives; a further pass sees the weights that they leave behind, and leaves
    the moving statistics alone, which have counted this batch already.

    Args:
      learner: a compiled method.
      batch: "image", uint8 [B, h, w, c], and the labels (`labels_of`): this replica's
        part of the global batch.

    Returns:
      float32 scalars by name: this replica's part of the losses and monitors, averaged
      over the global batch, and of the norms of the gradients. Their sum over the
      replicas is the value for the whole batch.
    """
    images, labels = batch["image"], labels_of(batch)
    execution = learner.execution
    global_batch = tf.cast(tf.shape(images)[0], tf.float32)
    if replicas() > 1:
        global_batch = sum_over_replicas(global_batch)
    metrics = {}
    for number, each in enumerate(learner.current_passes()):
        work = functools.partial(
            _gradients, learner, forward_pass=each, counted=number > 0
        )
        if execution.jit_compile and not _exchanges_before_gradients(learner):
            work = tf.function(work, autograph=False, jit_compile=True)
        gradients, sums = accumulate_microbatches(
            functools.partial(work, global_batch=global_batch),
            execution.accumulate,
            images,
            labels,
        )
        metrics |= _apply(learner.objectives, gradients)
        metrics |= {name: value / global_batch for name, value in sums.items()}
    if not execution.sync_batch_norm and replicas() > 1:
        _average_moving_statistics(learner)
    return metrics


def needs_auto_clustering(learner: Learner) -> bool:
    """Returns whether --jit_compile is left to TensorFlow's auto-clustering.

    XLA has no exchanges between replicas; TensorFlow finds what it can compile between
    them, if it is told so for the whole process.
    """
    return learner.execution.jit_compile and _exchanges_before_gradients(learner)


def _exchanges_before_gradients(learner: Learner) -> bool:
    """Returns whether replicas exchange something in their forward passes or losses."""
    return replicas() > 1 and (
        learner.execution.sync_batch_norm or learner.losses_exchange
    )


def accumulate_microbatches(
    work: Callable, count: int, images: tf.Tensor, labels: Labels
):
    """Returns the sum of `work(images, labels)` over the microbatches of a batch.

    They are processed one after the other: together they would need the memory of all.

    Args:
      work: returns tensors, nested in any way.
      count: number of microbatches. One replica takes fewer where it has fewer images;
        several replicas, which have to take equally many, need that many images each.
      images: uint8 [B, h, w, c].
      labels: of the images.
    """
    if count == 1:
        return work(images, labels)
    size = tf.shape(images)[0]
    together = replicas() > 1
    # A microbatch without images has no statistics.
    total = count if together else tf.minimum(count, size)

    def part(number):
        start, stop = number * size // total, (number + 1) * size // total
        return work(*tf.nest.map_structure(lambda x: x[start:stop], (images, labels)))

    def add(sums, number):
        return tf.nest.map_structure(tf.add, sums, part(number))

    if together:
        # TensorFlow cannot sum over replicas inside a loop.
        sums = part(0)
        for number in range(1, count):
            with tf.control_dependencies(tf.nest.flatten(sums)):
                sums = add(sums, number)
        return sums
    return tf.while_loop(
        lambda number, sums: number < total,
        lambda number, sums: (number + 1, add(sums, number)),
        (tf.constant(1), part(0)),
        parallel_iterations=1,
    )[1]


def _gradients(
    learner: Learner,
    images: tf.Tensor,
    labels: Labels,
    *,
    forward_pass: Pass,
    counted: bool,
    global_batch: tf.Tensor,
):
    """Returns the gradients of each objective, and sums over images, by name.

    The gradients are those of this replica's part of the losses, scaled where the
    objective's optimizer scales its loss.
    """
    # Outside of the tapes, which would keep the teachers' activations.
    teachers = learner.teacher_outputs(images)
    execution = learner.execution
    with (
        tf.GradientTape(persistent=True) as tape,
        # Sees no variable of a peer: the gradient of a discriminator would else be
        # traced back through the peers, with all exchanges between replicas there.
        tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as auxiliary_tape,
        training_mode(
            frozen=counted,
            local=not execution.sync_batch_norm,
            remat=execution.remat,
        ),
    ):
        auxiliary = _auxiliary_objectives(learner)
        auxiliary_tape.watch([v.value for each in auxiliary for v in each.variables])
        outputs = [*forward_pass.forward(images), *teachers]
        losses, monitors = forward_pass.losses(labels, outputs)
    gradients, sums = {}, {}
    for each in learner.objectives:
        if each.name not in losses:
            continue
        values = losses[each.name]
        weight = each.optimizer.loss_scale / global_batch
        own_tape = auxiliary_tape if each in auxiliary else tape
        gradients[each.name] = own_tape.gradient(
            values,
            [variable.value for variable in each.variables],
            output_gradients=tf.ones_like(values) * weight,
            # A control's loss may depend on none of its variables.
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        sums[each.metric("loss")] = tf.reduce_sum(values)
    sums |= {name: tf.reduce_sum(values) for name, values in monitors.items()}
    return gradients, sums


def _auxiliary_objectives(learner: Learner) -> list[Objective]:
    """Returns the objectives that move no variable of a peer."""
    of_peers = {id(each) for peer in learner.peers for each in peer.variables}
    return [
        objective
        for objective in learner.objectives
        if of_peers.isdisjoint(map(id, objective.variables))
    ]


def _apply(
    objectives: Sequence[Objective], gradients: Mapping[str, Sequence[tf.Tensor]]
) -> dict[str, tf.Tensor]:
    """Applies gradients, summed over the replicas, and returns their norms by name."""
    if replicas() > 1:
        gradients = sum_over_replicas(gradients)
    metrics = {}
    for each in objectives:
        if each.name in gradients:
            norm = each.optimizer.apply_scaled(gradients[each.name], each.variables)
            metrics[each.metric("gradient_norm")] = norm / replicas()
            if each.optimizer.scales_loss:
                scale = each.optimizer.loss_scale / replicas()
                metrics[each.metric("loss_scale")] = scale
    return metrics


def _average_moving_statistics(learner: Learner) -> None:
    """Assigns to every replica the mean of the moving statistics of all."""
    frozen = {
        id(variable)
        for each in learner.frozen_teachers
        for variable in getattr(each, "variables", ())
    }
    average_over_replicas(
        [
            variable
            for variable in learner.non_trainable_variables
            if variable.name.startswith("moving_") and id(variable) not in frozen
        ]
    )
