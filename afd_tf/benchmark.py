r"""Speed and cost of training and of exported networks, as ratios measured in one run.

    python -m afd_tf.benchmark step --peers=resnet20,resnet32 --dataset=cifar100 \
        --data_dir=DIR
    python -m afd_tf.benchmark methods --peers=resnet20,resnet20 --dataset=cifar100 \
        --data_dir=DIR [--methods=afd,dml]
    python -m afd_tf.benchmark settings --method=afd --peers=resnet20,resnet20 \
        --dataset=cifar100 --data_dir=DIR [--settings=deterministic,accumulate=4]
    python -m afd_tf.benchmark communication --peers=resnet20,resnet20 \
        --dataset=cifar100 --data_dir=DIR [--methods=afd,dml]
    python -m afd_tf.benchmark input --dataset=folder:PATH --image_size=224
    python -m afd_tf.benchmark artifacts --artifact=savedmodels/x/1 \
        [--artifact_batch_size=8]

`step`, which is also run if no subcommand is given, compares the training step of
`afd_tf.train`, with its input pipeline and its metrics, with a bare loop: the same
mathematics written by hand for this one case, on one fixed batch, without metrics,
schedules or names. Both are measured in every round. Then the input pipeline is
measured alone.

`methods` compares the cost of each method with that of the same peers trained alone
(`independent`): sizes, time of a step on one fixed batch, peak memory. For an offline
method, the last of --peers is the frozen teacher.

`settings` compares the cost of one method with additional flags, such as --remat, with
that of the same command without them.

`communication` measures the exchange between two workers on this machine in a step of
each method: the number of all-reduces, their size by count, and the bytes on the wire.
Nothing else should use the loopback interface meanwhile.

`input` measures the input pipeline alone, on photos in JPEG files or in a
tensorflow-datasets set, beside a plain `tf.data` pipeline of the same mathematics and,
where torchvision is installed, beside its ImageFolder with as many workers as cores.

`artifacts` measures each format of --artifact at inference on the CPU, one image at a
time or in batches: size, loading time, latency, images per second and memory. OpenVINO
and ONNX Runtime are measured as well where they are installed. A .tflite file that was
made for another batch is left out, and the table says so.

All but `step` and `input` print a Markdown table on stderr. The last line on stdout is
one JSON object.
"""

import json
from collections.abc import Callable, Sequence

from absl import flags

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.console import say
from afd_tf.base.errors import unknown_name

prepare_environment(training=True)

from afd_tf.benchmarks import (
    communication,
    inference_cost,
    step,
    training_cost,
    training_worker,
)
from afd_tf.benchmarks import input as input_speed
from afd_tf.distill.methods import METHODS
from afd_tf.training.run_directory import environment

# Starts itself again as a worker.
_MODULE = "afd_tf.benchmark"

_ROUNDS = flags.DEFINE_integer(
    "rounds",
    5,
    "Number of rounds; each round measures everything that is compared once.",
    lower_bound=1,
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Number of training steps in a round (default: 10), for input of batches (default: "
    "20) or, for artifacts, of calls (default: about 100 images, 10 calls at least).",
    lower_bound=1,
)
_METHODS = flags.DEFINE_list(
    "methods",
    [],
    "The methods that `methods` and `communication` measure; by default all of them.",
)
_SETTINGS = flags.DEFINE_list(
    "settings",
    [
        "deterministic",
        "precision=mixed_bfloat16",
        "precision=mixed_float16",
        "jit_compile",
        "remat",
        "accumulate=2",
        "update_order=sequential",
    ],
    "The settings that `settings` measures: flags without their dashes; plain stands "
    "for no additional flag.",
)

_TRAINING_STEPS = 10
_BATCHES = 20

_PLAIN = "plain"


def measure_step() -> dict:
    """Measures the training step beside the bare loop, and the input pipeline."""
    return step.measure_step(**_training_length())


def measure_methods() -> dict:
    """Measures the cost of each method beside that of peers trained alone."""
    return _measure_training("methods", _method_names(), "independent", _with_method)


def measure_settings() -> dict:
    """Measures the cost of a method with other flags beside that without them."""
    return _measure_training("settings", _SETTINGS.value, _PLAIN, _with_setting)


def _measure_training(
    kind: str,
    names: Sequence[str],
    baseline: str,
    command: Callable[[str], Sequence[str]],
) -> dict:
    measured = training_cost.compare_training_cost(
        names, baseline, command, **_training_length()
    )
    say(training_cost.cost_table(measured, baseline, kind))
    return {
        **_training_length(),
        "flags": training_worker.reported_flags(),
        "peak_memory_of": training_worker.peak_memory_of(),
        "baseline": baseline,
        kind: measured,
    }


def measure_communication() -> dict:
    """Measures the exchange between two workers in a step of each method."""
    measured = communication.measure_communication(
        _method_names(), _with_method, **_training_length()
    )
    say(communication.exchange_table(measured))
    return {
        **_training_length(),
        "flags": training_worker.reported_flags(),
        "methods": measured,
    }


def measure_input() -> dict:
    """Measures the input pipeline of photos beside others of the same mathematics."""
    length = {"rounds": _ROUNDS.value, "steps": _STEPS.value or _BATCHES}
    return {**length, **input_speed.measure_input(**length)}


def measure_artifacts() -> dict:
    """Measures the cost of inference with each format of an artifact."""
    result = inference_cost.measure_artifacts(_ROUNDS.value, _STEPS.value)
    say(inference_cost.artifact_table(result))
    return result


def _training_length() -> dict[str, int]:
    return {"rounds": _ROUNDS.value, "steps": _STEPS.value or _TRAINING_STEPS}


def _method_names() -> Sequence[str]:
    names = _METHODS.value or list(METHODS)
    for name in names:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    return names


def _with_method(name: str) -> list[str]:
    return training_worker.command_from_flags(_MODULE, f"--method={name}")


def _with_setting(name: str) -> list[str]:
    setting = [] if name == _PLAIN else [f"--{name}"]
    return training_worker.command_from_flags(_MODULE, *setting)


SUBCOMMANDS: dict[str, Callable[[], dict]] = {
    "step": measure_step,
    "methods": measure_methods,
    "settings": measure_settings,
    "communication": measure_communication,
    "input": measure_input,
    "artifacts": measure_artifacts,
}


def main(argv: list[str]) -> None:
    """Measures what the subcommand names."""
    program, name, *rest = argv if len(argv) > 1 else [*argv, "step"]
    refuse_arguments([program, *rest])
    if name == training_worker.SUBCOMMAND:
        training_worker.serve_training()
        return
    if name not in SUBCOMMANDS:
        raise unknown_name("subcommand", name, SUBCOMMANDS)
    result = SUBCOMMANDS[name]()
    result.setdefault("environment", environment())
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
