"""Logs of runs that never ran, as `train` writes them."""

import json
from pathlib import Path

FLAGS = {
    "dataset": "digits",
    "method": "afd",
    "peers": "resnet20,resnet8",
    "epochs": "2",
    "batch_size": "64",
    "seed": "0",
    "temperature": "3.0",
    "data_dir": "/somewhere",
}
PARAMETERS = {"resnet8": 80, "resnet20": 270, "resnet32": 460, "wrn_10_1": 77}
ENVIRONMENT = {"commit": "abc", "devices": ["GPU", "GPU"]}


def write(
    directory: Path,
    accuracies=(0.5, 0.4, 0.45, 0.55),
    *,
    metrics=(),
    seconds=60.0,
    exported=None,
    **flags,
) -> Path:
    """Writes the logs of a run.

    The accuracies are those of the peers, their mean and their ensemble. A flag that is
    None is left out. Without metrics, each epoch has those of `default_metrics`.
    """
    flags = {**FLAGS, **{name: str(value) for name, value in flags.items()}}
    flags = {name: value for name, value in flags.items() if value != "None"}
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(f"--{name}={value}\n" for name, value in flags.items())
    (directory / "flags.cfg").write_text(f"# python -m afd_tf.train\n{text}")
    *peers, mean, ensemble = accuracies
    names = flags["peers"].split(",")
    summary = {
        "dataset": flags["dataset"],
        "method": flags["method"],
        "peers": [
            {"name": name, "parameters": PARAMETERS[name], "accuracy": accuracy}
            for name, accuracy in zip(names, peers, strict=True)
        ],
        "mean_accuracy": mean,
        "ensemble_accuracy": ensemble,
        "epochs": int(flags["epochs"]),
        "seed": int(flags["seed"]),
        "seconds": seconds,
    }
    if exported is not None:
        summary["exported"] = exported
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "environment.json").write_text(json.dumps(ENVIRONMENT))
    lines = metrics or default_metrics(int(flags["epochs"]), peers, ensemble)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text)
    return directory


def default_metrics(epochs, peers, ensemble) -> list[dict]:
    lines = []
    for epoch in range(1, epochs + 1):
        part = epoch / epochs
        line = {"epoch": epoch, "step": 10 * epoch}
        for number, accuracy in enumerate(peers):
            peer = f"peer_{number}"
            line[f"test/{peer}/accuracy"] = part * accuracy
            line[f"train/{peer}/accuracy"] = part * accuracy
            for kind in ("logit", "discriminator"):
                line[f"train/{peer}/loss_{kind}"] = 2 - part
                line[f"train/{peer}/gradient_norm_{kind}"] = 1 - part / 2
            for suffix in ("", "_real", "_fake"):
                line[f"train/{peer}/discriminator_accuracy{suffix}"] = 0.995
        line["test/ensemble/accuracy"] = part * ensemble
        lines.append(line)
    return lines
