"""Messages of a run: at its start, after every epoch, and at its end."""

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from afd_tf.base.console import progress, say
from afd_tf.base.run_flags import resolved_flags
from afd_tf.data import Dataset
from afd_tf.distill.method import Method
from afd_tf.models import Peer, multiply_adds
from afd_tf.training.run_state import RunState

# The balanced accuracy is said where it is so far from the accuracy.
_NOTED_DIFFERENCE = 0.01


def report_start(
    method: Method,
    dataset: Dataset,
    state: RunState,
    run_dir: Path,
    *,
    replicas: int,
    batch_size: int,
) -> None:
    """Prints the data set, the networks and the learning rates of a run.

    Args:
      method: compiled.
      dataset: to train on.
      state: that the run starts from.
      run_dir: the run directory.
      replicas: of this start; `state` has those of the start before, if any.
      batch_size: images of a step, over all replicas.
    """
    info = dataset.info
    shape = "x".join(map(str, info.image_shape))
    say(
        f"{info.name}: {info.examples['train']:,} training and "
        f"{info.examples['test']:,} test images of {shape}, {info.num_classes} "
        f"classes, augmentation {info.augment}."
    )
    peers = ", ".join(f"{peer.name} ({peer.parameters:,})" for peer in method.peers)
    taught = ", ".join(teacher.name for teacher in method.frozen_teachers)
    say(
        f"{type(method).__name__}: {peers}{taught and f', taught by {taught}'} on "
        f"{replicas} replica(s)."
    )
    if state.step:
        changed = ""
        if state.replicas not in (None, replicas):
            changed = f", of {state.replicas} replica(s), on {replicas}"
        say(f"continuing {run_dir} after step {state.step}{changed}.")
    # By the loss; the same for all peers.
    rates = {
        each.loss: f"{float(each.optimizer.learning_rate):g}"
        for each in method.objectives
    }
    say(
        f"a batch is {batch_size} images, over all replicas; learning rates are for "
        "the whole batch and are never scaled: "
        f"{', '.join(f'{loss} {rate}' for loss, rate in rates.items())}."
    )


class StartupTimer:
    """The time from the command to the first step, by its parts.

    Args:
      began: the time at which the command began, of `time.time`.
    """

    def __init__(self, began: float):
        self._began = self._before = began
        self._parts: list[str] = []

    def mark(self, part: str) -> None:
        """Records that a part of the start is over."""
        now = time.time()
        self._parts.append(f"{part} {now - self._before:.1f}")
        self._before = now

    def first_step(self) -> None:
        """Prints the times, once."""
        if self._parts:
            self.mark("tracing and step")
            say(
                f"first step finished {self._before - self._began:.1f} s after the "
                f"command: {', '.join(self._parts)}."
            )
            self._parts = []


def with_bar(
    chunks: Iterable[int], description: str, *, done: int, total: int, batch_size: int
) -> Iterator[int]:
    """Passes steps on as they are taken, under a bar that counts images.

    Args:
      chunks: the number of steps of each chunk.
      description: title of the bar.
      done: number of images that are over already.
      total: number of images in all.
      batch_size: images of a step; the last step may have fewer.
    """
    with progress(description, total, done) as bar:
        for taken in chunks:
            bar.update(min(taken * batch_size, total - bar.n))
            yield taken


def epoch_metrics(
    state: RunState,
    names: Sequence[str],
    steps_per_epoch: int,
    measured: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Returns the epoch's line of metrics: means over its steps, and accuracies.

    Args:
      state: at the end of the epoch.
      names: of the metrics in `state.sums`.
      steps_per_epoch: training steps of an epoch.
      measured: accuracies by name, by split.
    """
    metrics = {"epoch": state.step // steps_per_epoch, "step": state.step}
    epoch = range(state.step - steps_per_epoch, state.step)
    steps = steps_per_epoch - sum(step in epoch for step in state.skipped)
    # An epoch all of whose steps were skipped has no means.
    if steps:
        metrics |= {
            f"train/{name}": value / steps
            for name, value in zip(names, state.sums, strict=True)
        }
    for split, accuracies in measured.items():
        metrics |= {f"{split}/{name}": value for name, value in accuracies.items()}
    return metrics


def report_epoch(
    metrics: Mapping[str, float], epochs: int, peers: Sequence[Peer]
) -> None:
    """Prints an epoch in one line."""
    losses = {
        name.split("/", 1)[1]: f"{value:.3f}"
        for name, value in metrics.items()
        if "/loss_" in name
    }
    logit = [value for name, value in losses.items() if name.endswith("/loss_logit")]
    if logit:
        accuracies = ", ".join(
            f"{peer.name} {metrics[f'test/peer_{number}/accuracy']:.2%}"
            for number, peer in enumerate(peers)
        )
        shown = (
            f"losses {', '.join(logit)}; test {accuracies}, "
            f"ensemble {metrics['test/ensemble/accuracy']:.2%}"
        )
    else:
        shown = "warm-up, " + ", ".join(map(" ".join, losses.items()))
    say(f"epoch {metrics['epoch']}/{epochs}: {shown}")


def summarize(
    method: Method,
    dataset: Dataset,
    state: RunState,
    accuracies: Mapping[str, float],
) -> dict:
    """Returns the content of `summary.json`.

    Args:
      method: trained.
      dataset: that it was trained on.
      state: at the end of the run.
      accuracies: by name, of the last epoch on the test split.
    """
    values = resolved_flags()
    images = state.step // method.steps_per_epoch * dataset.info.examples["train"]
    summary = {
        "dataset": dataset.info.name,
        "method": values["method"],
        "peers": [
            {
                "name": peer.name,
                "parameters": peer.parameters,
                "multiply_adds": multiply_adds(peer, dataset.info.image_shape),
                "accuracy": accuracies[f"peer_{number}/accuracy"],
                "balanced_accuracy": accuracies[f"peer_{number}/balanced_accuracy"],
            }
            for number, peer in enumerate(method.peers)
        ],
        "mean_accuracy": accuracies["mean/accuracy"],
        "mean_balanced_accuracy": accuracies["mean/balanced_accuracy"],
        "ensemble_accuracy": accuracies["ensemble/accuracy"],
        "ensemble_balanced_accuracy": accuracies["ensemble/balanced_accuracy"],
        "epochs": state.step // method.steps_per_epoch - method.warmup_epochs,
        "preparation_epochs": method.warmup_epochs,
        "batch_size": int(values["batch_size"]),
        "seed": int(values["seed"]),
        "seconds": round(state.seconds, 1),
        "images_per_second": round(images / state.seconds, 1),
    }
    if dataset.skipped:
        summary["skipped_images"] = dataset.skipped
    if dataset.leakage is not None:
        summary["images_on_both_sides"] = dataset.leakage
    if state.best_validation:
        summary["best_validation"] = state.best_validation
    return summary


def report_end(summary: Mapping, run_dir: Path) -> None:
    """Prints what came out of a run, where it is, and which commands to try next.

    Args:
      summary: content of `summary.json`, with "exported" if there is an export.
      run_dir: the run directory.
    """
    rows = [
        (peer["name"], peer["accuracy"], peer["balanced_accuracy"])
        for peer in summary["peers"]
    ]
    if len(rows) > 1:
        measures = ("ensemble_accuracy", "ensemble_balanced_accuracy")
        rows.append(("ensemble", *(summary[measure] for measure in measures)))
    width = max(len("ensemble"), *(len(name) for name, _, _ in rows))
    # Where the classes have about as many images each, it says nothing new.
    differs = any(
        abs(plain - balanced) >= _NOTED_DIFFERENCE for _, plain, balanced in rows
    )
    epochs = summary["epochs"]
    say(
        f"test accuracy after {epochs} epoch{'s' * (epochs != 1)}"
        f"{' (balanced: each class counts the same)' * differs}:"
    )
    for name, plain, balanced in rows:
        say(f"  {name:{width}}  {plain:.2%}{f', balanced {balanced:.2%}' * differs}")
    say(f"run: {run_dir} (metrics.jsonl, summary.json, checkpoints/, tensorboard/)")
    directory = shlex.quote(str(run_dir))
    exported = summary.get("exported")
    if exported:
        files = ", ".join(exported["formats"])
        say(f"export of {exported['name']}: {exported['directory']} ({files})")
        artifact = shlex.quote(exported["directory"])
        say(f"next: python -m afd_tf.predict --artifact={artifact} IMAGE...")
        say(f"      python -m afd_tf.evaluate --artifact={artifact}")
    else:
        say(f"next: python -m afd_tf.export --run_dir={directory}")
        say(f"      python -m afd_tf.predict --artifact={directory} IMAGE...")
    say(f"      tensorboard --logdir={directory}")
