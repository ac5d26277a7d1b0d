"""Speed and cost of training and of what is exported, as ratios measured in one run.

    python -m afd_tf.benchmark step --peers=resnet20,resnet32 --dataset=cifar100 \
        --data_dir=DIR
    python -m afd_tf.benchmark methods --peers=resnet20,resnet20 --dataset=cifar100 \
        --data_dir=DIR [--methods=afd,dml]
    python -m afd_tf.benchmark settings --method=afd --peers=resnet20,resnet20 \
        --dataset=cifar100 --data_dir=DIR [--settings=deterministic,accumulate=4]
    python -m afd_tf.benchmark communication --peers=resnet20,resnet20 \
        --dataset=cifar100 --data_dir=DIR [--methods=afd,dml]
    python -m afd_tf.benchmark artifacts --artifact=savedmodels/x/1

`step`, also without its name: the step of `afd_tf.train`, with its input pipeline and
its metrics, takes turns with a bare loop: the same mathematics written by hand for this
one case, on one fixed batch, without metrics, schedules or names. Then the input
pipeline runs alone.

`methods`: what each method costs beside the same peers trained alone (`independent`):
sizes, time of a step on one fixed batch, peak memory. Of an offline method, the last of
--peers is the frozen teacher. A Markdown table goes to stderr.

`settings`: likewise what flags cost that leave the method as it is, beside the same
command without them.

`communication`: what two workers on this machine tell each other in a step of each
method: how many sums, how many bytes by count, and how many on the wire. Nothing else
should use the loopback interface meanwhile. A Markdown table goes to stderr.

`artifacts`: what each format of --artifact costs who runs it, one picture at a time on
the CPU: bytes, start, latency, memory; with OpenVINO and with ONNX Runtime as well
where they are installed. A Markdown table goes to stderr.

The last line on stdout is one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from afd_tf.command_line import prepare_environment, refuse_arguments, run

prepare_environment(training=True)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import flags  # noqa: E402

from afd_tf import (  # noqa: E402
    artifact_cost,
    communication,
    data,
    distill,
    method_cost,
    models,
    runtime,
)
from afd_tf.bare_loop import BareTraining  # noqa: E402
from afd_tf.distill.afd import AdversarialFeatureDistillation  # noqa: E402
from afd_tf.errors import UserError, unknown_name  # noqa: E402
from afd_tf.journal import environment, resolved_flags, say  # noqa: E402
from afd_tf.loop import training_function  # noqa: E402
from afd_tf.models.resnet import ResNet  # noqa: E402

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Training steps a turn (default: 10); of `artifacts`, pictures (default: 100).",
    lower_bound=1,
)
_METHODS = flags.DEFINE_list(
    "methods", [], "What `methods` and `communication` measure; default: all."
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
    "What `settings` measures: flags without their dashes; `plain` is none.",
)

_TRAINING_STEPS = 10
_PICTURES = 100
_INPUT_SECONDS = 3.0

_BASELINE = "independent"
_PLAIN = "plain"
# How this main is started for each method: no subcommand for users.
_WORKER = "worker"


def step() -> dict:
    """Measures the training step against the bare loop, and the input pipeline."""
    strategy = tf.distribute.get_strategy()
    batch_size = runtime.batch_size_from_flags(strategy)
    seed = runtime.seed_from_flags()
    dataset = data.from_flags()
    peers = models.peers_from_flags(dataset.info)
    if len(peers) != 2 or not all(isinstance(peer, ResNet) for peer in peers):
        raise UserError(
            "the bare loop knows two CIFAR ResNets only, e.g. "
            "--peers=resnet20,resnet32."
        )
    method = AdversarialFeatureDistillation(peers)
    # No drop of the learning rate comes near.
    method.compile(epochs=1000, steps_per_epoch=dataset.steps_per_epoch(batch_size))
    batches = dataset.train_batches(batch_size=batch_size, seed=seed, epochs=1000)
    first = next(iter(batches))
    bare = BareTraining(method).loop(first["image"], first["label"])
    iterator = iter(batches)
    ours = training_function(method, strategy, iterator, [])

    def run_ours(steps):
        ours(iterator, tf.constant(steps), tf.constant(0.0, tf.float64))[1].numpy()

    say("first steps: tracing and warming up.")
    run_ours(2)
    bare(2)
    steps = _STEPS.value or _TRAINING_STEPS
    pictures = steps * batch_size
    rates = {"afd_tf": [], "bare": []}
    for turn in range(_ROUNDS.value):
        # Who begins takes turns as well.
        for name in sorted(rates, reverse=bool(turn % 2)):
            work = run_ours if name == "afd_tf" else bare
            rates[name].append(pictures / _seconds(work, steps))
        shown = ", ".join(f"{name} {rate[-1]:.1f}" for name, rate in rates.items())
        say(f"round {turn + 1}, images/s: {shown}")
    ratios = np.divide(rates["afd_tf"], rates["bare"])
    alone = input_rate(dataset, batch_size)
    step_rate = float(np.median(rates["afd_tf"]))
    return {
        "peers": [peer.name for peer in peers],
        "batch_size": batch_size,
        "images_per_second": {n: [round(x, 1) for x in r] for n, r in rates.items()},
        "ratio_to_bare": {
            "median": round(float(np.median(ratios)), 3),
            "min": round(float(np.min(ratios)), 3),
            "max": round(float(np.max(ratios)), 3),
        },
        "input_images_per_second": round(alone, 1),
        "input_to_step": round(alone / step_rate, 1),
    }


def _seconds(work: Callable[[int], object], steps: int) -> float:
    began = time.perf_counter()
    work(steps)
    return time.perf_counter() - began


def input_rate(dataset: data.Dataset, batch_size: int) -> float:
    """Returns the pictures a second that the input pipeline gives by itself."""
    batches = iter(dataset.train_batches(batch_size=batch_size, seed=0, epochs=1000))
    next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _INPUT_SECONDS:
        count += int(next(batches)["label"].shape[0])
    return count / (time.perf_counter() - began)


def methods() -> dict:
    """Measures what each method costs beside the baseline."""
    return _costs(
        _chosen_methods(), _BASELINE, lambda name: [*_worker(), f"--method={name}"]
    )


def settings() -> dict:
    """Measures what flags cost that leave the method as it is."""

    def command(name):
        return _worker() if name == _PLAIN else [*_worker(), f"--{name}"]

    return _costs(_SETTINGS.value, _PLAIN, command)


def _costs(
    names: Sequence[str], baseline: str, command: Callable[[str], Sequence[str]]
) -> dict:
    steps = _STEPS.value or _TRAINING_STEPS
    measured = method_cost.compare(names, baseline, command, _ROUNDS.value, steps)
    say(cost_table(measured, baseline))
    return {
        "rounds": _ROUNDS.value,
        "steps": steps,
        "flags": _what_was_given(),
        "peak_memory_of": method_cost.peak_memory_of(),
        "baseline": baseline,
        "methods" if baseline == _BASELINE else "settings": measured,
    }


def communicate() -> dict:
    """Measures what workers tell each other in a step of each method."""
    steps = _STEPS.value or _TRAINING_STEPS
    measured = communication.compare(
        _chosen_methods(),
        lambda name: [*_worker(), f"--method={name}"],
        _ROUNDS.value,
        steps,
    )
    say(exchange_table(measured))
    return {
        "rounds": _ROUNDS.value,
        "steps": steps,
        "flags": _what_was_given(),
        "methods": measured,
    }


def _chosen_methods() -> list[str]:
    names = _METHODS.value or list(distill.METHODS)
    for name in names:
        if name not in distill.METHODS:
            raise unknown_name("method", name, distill.METHODS)
    return names


def _given() -> dict[str, str]:
    """The flags of the command line; the others would stand against own defaults."""
    return {
        name: text
        for name, text in resolved_flags().items()
        if not flags.FLAGS[name].using_default_value
    }


def _worker() -> list[str]:
    """What starts a worker with the flags of this command."""
    command = [sys.executable, "-m", "afd_tf.benchmark", _WORKER]
    return command + [f"--{name}={text}" for name, text in _given().items()]


def _what_was_given() -> dict[str, str]:
    # Where things lie is the machine's business.
    places = ("cache_dir", "data_dir")
    return {name: text for name, text in _given().items() if name not in places}


def cost_table(measured: Mapping[str, Mapping | None], baseline: str) -> str:
    """Returns what `method_cost.compare` does as a Markdown table.

    What refused the flags has no row.
    """

    def size(method, name, unit, symbol):
        relative = method["relative"][name]
        if relative is None:
            return "unknown"
        return f"{method[name] / unit:,.2f} {symbol} ({relative:.2f})"

    lines = [
        f"In brackets: relative to {baseline}; of the step time, all is.",
        "",
        f"| {'method' if baseline == _BASELINE else 'flag'} | students "
        "| frozen teachers | trained parameters "
        "| weights in memory | multiply-adds | step time, median (least, greatest) "
        "| peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, method in measured.items():
        if method is None:
            continue
        cells = (
            f"`{name}`",
            ", ".join(method["students"]),
            ", ".join(method["frozen_teachers"]),
            size(method, "trained_parameters", 1e6, "M"),
            size(method, "weights_in_memory", 1e6, "M"),
            size(method, "multiply_adds", 1e6, "M"),
            "{median:.2f} ({min:.2f}, {max:.2f})".format(
                **method["relative"]["step_time"]
            ),
            size(method, "peak_memory", 1e9, "GB"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exchange_table(measured: Mapping[str, Mapping | None]) -> str:
    """Returns what `communication.compare` does as a Markdown table."""
    lines = [
        "MB a step; all-reduced: by each worker; on the wire: by both together.",
        "",
        "| method | all-reduces | gradients | batch normalization | all-reduced "
        "| on the wire, of a ring | on the wire, measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in measured.items():
        if row is None:
            continue
        statistics = row["bytes"] - row["gradient_bytes"] - row["metric_bytes"]
        sizes = (
            row["gradient_bytes"],
            statistics,
            row["bytes"],
            row["expected_wire_bytes"],
            row["wire_bytes"],
        )
        shown = ("unknown" if x is None else f"{x / 1e6:.3f}" for x in sizes)
        lines.append(f"| `{name}` | {row['all_reduces']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def artifacts() -> dict:
    """Measures what each format of an artifact costs who runs it."""
    found = artifact_cost.artifacts_from_flags()
    steps = _STEPS.value or _PICTURES
    result = artifact_cost.compare(found, _ROUNDS.value, steps)
    say(artifact_table(**result))
    return {
        "rounds": _ROUNDS.value,
        "steps": steps,
        "image_shape": found[0].task["image_shape"],
        "peak_memory_of": "resident set of the process, with its runtime (VmHWM)",
        **result,
        # Of the processes that were measured, not of this one.
        "environment": {
            **environment(),
            "onednn": artifact_cost.ENVIRONMENT["TF_ENABLE_ONEDNN_OPTS"],
            "devices": ["/physical_device:CPU:0"],
        },
    }


def artifact_table(reference: Sequence[str], measured: Mapping[str, Mapping]) -> str:
    """Returns what `artifact_cost.compare` does as a Markdown table.

    A runtime that was left out has no row. Start and memory are those with one thread.
    """

    def cell(text, ratio):
        return "unknown" if ratio is None else f"{text} ({ratio:.2f})"

    def latency(process):
        times = process["latency_ms"]
        return cell(
            f"{times['p50']:.3f} / {times['p90']:.3f}", process["relative"]["latency"]
        )

    rows = [
        (name, reader, row)
        for name, readers in measured.items()
        for reader, row in readers.items()
        if row
    ]
    counts = list(rows[0][2]["threads"])
    titles = ["format", "runtime", "size, kB", "import, s", "load, s"]
    titles += [f"latency, ms, p50 / p90, threads: {count}" for count in counts]
    titles += ["peak memory, MB", "same top class"]
    lines = [
        f"In brackets: relative to {' with '.join(reference)}.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name, reader, row in rows:
        processes = list(row["threads"].values())
        alone = processes[0]
        size, memory = row["bytes"] or 0, alone["peak_memory"] or 0
        cells = (
            f"`{name}`",
            reader,
            cell(f"{size / 1e3:,.0f}", row["relative_bytes"]),
            f"{alone['import_seconds']:.2f}",
            cell(f"{alone['load_seconds']:.3f}", alone["relative"]["load"]),
            *map(latency, processes),
            cell(f"{memory / 1e6:,.0f}", alone["relative"]["peak_memory"]),
            f"{min(each['agreement'] for each in processes):.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


SUBCOMMANDS: dict[str, Callable[[], dict]] = {
    "step": step,
    "methods": methods,
    "settings": settings,
    "communication": communicate,
    "artifacts": artifacts,
}


def main(argv: list[str]) -> None:
    """Measures what the command line describes."""
    program, name, *rest = argv if len(argv) > 1 else [*argv, "step"]
    refuse_arguments([program, *rest])
    if name == _WORKER:
        method_cost.serve()
        return
    if name not in SUBCOMMANDS:
        raise unknown_name("subcommand", name, SUBCOMMANDS)
    result = SUBCOMMANDS[name]()
    result.setdefault("environment", environment())
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
