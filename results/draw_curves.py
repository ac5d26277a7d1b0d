"""Draws docs/images/training_curves.png from the log of the released model's run.

python results/draw_curves.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RUN = ROOT / "results" / "cifar100_resnet20"


def main() -> None:
    """Draws the accuracy of both peers and of their discriminators."""
    lines = [json.loads(x) for x in (RUN / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(8.5, 3.1), dpi=130, layout="constrained")
    accuracy, discriminators = figure.subplots(1, 2)
    for key, label, style in (
        ("peer_0", "ResNet-20, peer 0", "C0-"),
        ("peer_1", "ResNet-20, peer 1", "C1-"),
        ("ensemble", "ensemble", "k--"),
    ):
        values = [100 * line[f"test/{key}/accuracy"] for line in lines]
        accuracy.plot(epochs, values, style, label=label, linewidth=1.4)
    accuracy.set(title="Test accuracy, CIFAR-100", xlabel="epoch", ylabel="%")
    for peer, color in (("peer_0", "C0"), ("peer_1", "C1")):
        for kind, style in (("real", "-"), ("fake", ":")):
            key = f"train/{peer}/discriminator_accuracy_{kind}"
            discriminators.plot(
                epochs,
                [100 * line[key] for line in lines],
                color + style,
                label=f"D of {peer.replace('_', ' ')}, {kind} maps",
                linewidth=1.4,
            )
    discriminators.axhline(50, color="0.6", linewidth=0.8)
    discriminators.set(
        title="Maps that discriminators get right", xlabel="epoch", ylim=(0, 100)
    )
    for axes in (accuracy, discriminators):
        axes.grid(color="0.92")
        axes.legend(fontsize=7, loc="lower right")
        axes.title.set_fontsize(10)
    path = ROOT / "docs" / "images" / "training_curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
