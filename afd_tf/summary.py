"""What is said of a run: at its start, after every epoch, and at its end."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from afd_tf import models
from afd_tf.journal import progress, resolved_flags, say


def describe(method, dataset, strategy, state, run_dir) -> None:
    """Says what is about to run."""
    info = dataset.info
    shape = "x".join(map(str, info.image_shape))
    say(
        f"{info.name}: {info.examples['train']:,} training and "
        f"{info.examples['test']:,} test pictures of {shape}, {info.num_classes} "
        f"classes, augmentation {info.augment}."
    )
    peers = ", ".join(f"{peer.name} ({peer.parameters:,})" for peer in method.peers)
    taught = ", ".join(teacher.name for teacher in method.frozen_teachers)
    replicas = strategy.num_replicas_in_sync
    say(
        f"{type(method).__name__}: {peers}{taught and f', taught by {taught}'} on "
        f"{replicas} replica(s)."
    )
    if state["step"]:
        before = state.get("replicas", replicas)
        changed = (
            f", of {before} replica(s), on {replicas}" if before != replicas else ""
        )
        say(f"continuing {run_dir} after step {state['step']}{changed}.")


def describe_learning_rates(method, batch_size: int) -> None:
    """Says which learning rates are used at this step, and that they are not scaled."""
    # By the loss; the same for all peers.
    rates = {
        each.name.partition("/")[2]: f"{float(each.optimizer.learning_rate):g}"
        for each in method.objectives
    }
    say(
        f"a batch is {batch_size} pictures, over all replicas; learning rates are for "
        "the whole batch and are never scaled: "
        f"{', '.join(f'{loss} {rate}' for loss, rate in rates.items())}."
    )


class StartUp:
    """How long a user waits for the first step, and for what.

    Args:
      began: when the command did, as `time.time` says.
    """

    def __init__(self, began: float):
        self._began = self._before = began
        self._parts: list[str] = []

    def passed(self, part: str) -> None:
        """Notes that a part of the start is over."""
        now = time.time()
        self._parts.append(f"{part} {now - self._before:.1f}")
        self._before = now

    def first_step(self) -> None:
        """Says all that, the first time."""
        if self._parts:
            self.passed("tracing and step")
            say(
                f"first step finished {self._before - self._began:.1f} s after the "
                f"command: {', '.join(self._parts)}."
            )
            self._parts = []


def with_bar(
    bursts: Iterable[int], description: str, *, done: int, total: int, batch_size: int
) -> Iterator[int]:
    """Passes steps on as they are taken, under a bar that counts pictures.

    Args:
      bursts: how many steps were taken, each time.
      description: what the bar is called.
      done: pictures that are over already.
      total: pictures in all.
      batch_size: of a step; the last one may be smaller.
    """
    with progress(description, total, done) as bar:
        for taken in bursts:
            bar.update(min(taken * batch_size, total - bar.n))
            yield taken


def epoch_metrics(
    state: Mapping, names: Sequence[str], steps_per_epoch: int, measured: Mapping
) -> dict[str, float]:
    """Returns the epoch's line of metrics: means over its steps, and accuracies."""
    metrics = {"epoch": state["step"] // steps_per_epoch, "step": state["step"]}
    epoch = range(state["step"] - steps_per_epoch, state["step"])
    steps = steps_per_epoch - sum(step in epoch for step in state["skipped"])
    # Nothing is left of an epoch all of whose steps were passed over.
    if steps:
        metrics |= {
            f"train/{name}": value / steps
            for name, value in zip(names, state["sums"], strict=True)
        }
    for split, accuracies in measured.items():
        metrics |= {f"{split}/{name}": value for name, value in accuracies.items()}
    return metrics


def report_epoch(metrics: Mapping[str, float], epochs: int, peers) -> None:
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
        shown = "preparation, " + ", ".join(map(" ".join, losses.items()))
    say(f"epoch {metrics['epoch']}/{epochs}: {shown}")


def summarize(method, dataset, state, accuracies: Mapping[str, float]) -> dict:
    """Returns `summary.json`; accuracies are of the last epoch, on the test split."""
    values = resolved_flags()
    epochs = method.preparation_epochs + method.epochs
    pictures = epochs * dataset.info.examples["train"]
    summary = {
        "dataset": dataset.info.name,
        "method": values["method"],
        "peers": [
            {
                "name": peer.name,
                "parameters": peer.parameters,
                "multiply_adds": models.multiply_adds(peer, dataset.info.image_shape),
                "accuracy": accuracies[f"peer_{number}/accuracy"],
            }
            for number, peer in enumerate(method.peers)
        ],
        "mean_accuracy": accuracies["mean/accuracy"],
        "ensemble_accuracy": accuracies["ensemble/accuracy"],
        "epochs": method.epochs,
        "preparation_epochs": method.preparation_epochs,
        "batch_size": int(values["batch_size"]),
        "seed": int(values["seed"]),
        "seconds": round(state["seconds"], 1),
        "images_per_second": round(pictures / state["seconds"], 1),
    }
    if state["best_validation"]:
        summary["best_validation"] = state["best_validation"]
    return summary
