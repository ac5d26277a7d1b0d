"""What replicas tell each other in a step: counted in its graph, and on the wire.

`describe` counts in a process that takes part. `compare` starts two such workers on
this machine for each method and reads how many bytes pass its loopback interface, which
should have no other traffic meanwhile.
"""

import json
import math
import re
import socket
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import tensorflow as tf

from afd_tf import distill, turns
from afd_tf.journal import say

_FLOAT32 = 4
_WORKERS = 2


# What a worker does.


def describe(
    method: distill.Method, metrics: Sequence[str], graph: tf.Graph
) -> dict[str, int]:
    """Returns what one replica adds to the sums over all of them in a step.

    Args:
      method: compiled.
      metrics: the names of those of a step.
      graph: of a function that takes steps, on several workers.

    Returns:
      "all_reduces", how many; "bytes" of all; of these, "gradient_bytes": float32, each
      objective's variables; "metric_bytes": likewise, with the size of the batch. The
      rest is batch normalization's.
    """
    moved = {name.replace("gradient_norm_", "") for name in metrics}
    sizes = [
        math.prod(variable.shape)
        for objective in method.objectives
        for variable in objective.variables
        # Not those of a preparation.
        if objective.name in moved
    ]
    definition = graph.as_graph_def(add_shapes=True)
    sums = [
        node.attr
        for function in definition.library.function
        for node in function.node_def
        if node.op == "CollectiveReduceV2"
    ]
    return {
        "all_reduces": len(sums),
        "bytes": sum(
            math.prod(dimension.size for dimension in shape.dim)
            * tf.dtypes.as_dtype(attributes["T"].type).size
            for attributes in sums
            for shape in attributes["_output_shapes"].list.shape
        ),
        "gradient_bytes": _FLOAT32 * sum(sizes),
        "metric_bytes": _FLOAT32 * (len(metrics) + 1),
    }


# What the process does that starts the workers.


def compare(
    names: Sequence[str],
    command: Callable[[str], Sequence[str]],
    rounds: int,
    steps: int,
) -> dict[str, dict | None]:
    """Measures what two workers tell each other in a step of each method.

    Args:
      names: of the methods.
      command: returns what starts a worker of a method, see `method_cost.serve`.
      rounds: turns of both together.
      steps: of a turn.

    Returns:
      by name None for a method that refuses the flags, else `describe` with
      "wire_bytes", all that passed the loopback interface in a step (the median of the
      rounds; None where the system does not say), and "expected_wire_bytes": that of a
      ring without headers.

    Raises:
      UserError: a worker ends.
    """
    results: dict[str, dict | None] = {}
    for name in names:
        say(f"{name}: tracing and warming up on {_WORKERS} workers.")
        addresses = free_addresses(_WORKERS)
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    turns.Worker(name, command(name), tf_config(addresses, number))
                )
                for number in range(_WORKERS)
            ]
            descriptions = [worker.answer() for worker in workers]
            if "refused" in descriptions[0]:
                say(f"{name} is left out: {descriptions[0]['refused']}")
                results[name] = None
                continue
            passed = []
            for _ in range(rounds):
                before = loopback_bytes()
                for worker in workers:
                    worker.send({"steps": steps})
                for worker in workers:
                    worker.answer()
                after = loopback_bytes()
                if before is not None:
                    passed.append((after - before) / steps)
        exchange = descriptions[0]["exchange"]
        results[name] = {
            **exchange,
            # Each sends what it has to the next one, then what it has added up.
            "expected_wire_bytes": 2 * (_WORKERS - 1) * exchange["bytes"],
            "wire_bytes": round(statistics.median(passed)) if passed else None,
        }
    return results


def tf_config(addresses: Sequence[str], number: int) -> dict[str, str]:
    """Returns the environment variable that makes a process one of these workers."""
    config = {
        "cluster": {"worker": list(addresses)},
        "task": {"type": "worker", "index": number},
    }
    return {"TF_CONFIG": json.dumps(config)}


def free_addresses(count: int) -> list[str]:
    """Returns addresses of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def loopback_bytes() -> int | None:
    """Returns how many bytes this machine has sent to itself, if it is told."""
    counters = Path("/proc/net/dev")
    if not counters.exists():
        return None
    return int(re.search(r"lo:\s*(\d+)", counters.read_text())[1])
