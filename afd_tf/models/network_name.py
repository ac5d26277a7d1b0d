"""The names of networks on the command line."""

import re
from typing import NamedTuple

from afd_tf.base.errors import UserError

# Kinds of foreign networks → what follows the colon.
KINDS = {
    "keras": "the name of a network of keras.applications, e.g. keras:MobileNetV3Small",
    "hub": "a preset of keras-hub, its name or its folder",
    "file": "a saved Keras model, e.g. file:model.keras",
    "python": "a function that returns a Keras model, e.g. python:package.module:name",
}
IMAGENET = "imagenet"


class NetworkName(NamedTuple):
    """A name, taken apart: `[KIND:]NAME[@WEIGHTS]`.

    Attributes:
      kind: a key of `KINDS`; "" for the networks of this project.
      name: of the network; a path where the kind says so.
      weights: "imagenet" for the published ones, or a path; None for none.
    """

    kind: str
    name: str
    weights: str | None

    @property
    def short(self) -> str:
        """A name for messages, metrics and folders, without paths and weights."""
        name = self.name
        if self.kind == "python":
            name = name.rpartition(":")[2]
        elif self.kind in ("file", "hub"):
            name = re.sub(r"\.keras$", "", re.split(r"[/\\]", name.rstrip("/"))[-1])
        # Of TensorFlow's names.
        return re.sub(r"^[^A-Za-z0-9]|[^\w.-]+", "_", name) if self.kind else name


def parse_network_name(text: str) -> NetworkName:
    """Takes a name apart.

    Raises:
      UserError: an unknown kind, or a part is empty.
    """
    kind, colon, rest = text.partition(":")
    if not colon or "@" in kind or "/" in kind:
        kind, rest = "", text
    elif kind not in KINDS:
        kinds = ", ".join(f"{name}:" for name in KINDS)
        raise UserError(
            f"unknown kind of network {kind + ':'!r} in {text!r}. Known: {kinds}, and "
            "names without a colon."
        )
    # A path may contain @, and a saved model has its weights.
    name, at, weights = (rest, "", "") if kind == "file" else rest.partition("@")
    if not name or (at and not weights):
        raise UserError(
            f"{text!r} is no name of a network: expected is NAME, NAME@imagenet for "
            "published weights, NAME@PATH for a file of weights"
            + (f", where NAME is {KINDS[kind]}." if kind else ".")
        )
    return NetworkName(kind, name, weights or None)
