"""Exchange between replicas in a training step: counted in its graph, and on the wire.

`count_exchange` counts inside a worker, in the graph of its training step.
`measure_communication` starts two workers on this machine for each method and reads
the bytes that pass its loopback interface, which should have no other traffic
meanwhile.
"""

import json
import math
import re
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import tensorflow as tf

from afd_tf.base.console import say
from afd_tf.benchmarks.worker_process import Worker
from afd_tf.distill.method import Method

_FLOAT32_BYTES = 4
_WORKERS = 2


# Inside a worker.


def count_exchange(
    method: Method, metrics: Sequence[str], graph: tf.Graph
) -> dict[str, int]:
    """Returns what one replica contributes to the all-reduces of a step.

    Args:
      method: compiled.
      metrics: the names of the metrics of a step.
      graph: of a function that takes steps, on several workers.

    Returns:
      "all_reduces", their number; "bytes", the size of all; "gradient_bytes", the part
      of the gradients, float32, of every objective; "metric_bytes", the part of the
      metrics, float32, and of the size of the batch. The rest of the bytes belongs to
      batch normalization.
    """
    sizes = [
        math.prod(variable.shape)
        for objective in method.objectives
        for variable in objective.variables
        # The objectives of a warm-up are not in this step.
        if objective.metric("gradient_norm") in metrics
    ]
    definition = graph.as_graph_def(add_shapes=True)
    all_reduces = [
        node.attr
        for function in definition.library.function
        for node in function.node_def
        if node.op == "CollectiveReduceV2"
    ]
    return {
        "all_reduces": len(all_reduces),
        "bytes": sum(
            math.prod(dimension.size for dimension in shape.dim)
            * tf.dtypes.as_dtype(attributes["T"].type).size
            for attributes in all_reduces
            for shape in attributes["_output_shapes"].list.shape
        ),
        "gradient_bytes": _FLOAT32_BYTES * sum(sizes),
        "metric_bytes": _FLOAT32_BYTES * (len(metrics) + 1),
    }


# In the measuring process.


def measure_communication(
    names: Sequence[str],
    command: Callable[[str], Sequence[str]],
    rounds: int,
    steps: int,
) -> dict[str, dict | None]:
    """Measures the exchange between two workers in a step of each method.

    Args:
      names: of the methods.
      command: returns the command that starts a worker of a method, see
        `afd_tf.benchmarks.training_worker`.
      rounds: number of measurements.
      steps: training steps that both workers take together in a round.

    Returns:
      by name None if the workers refused their flags, else `count_exchange` with
      "wire_bytes", all bytes that passed the loopback interface per step (the median
      of the rounds; None where the system does not tell), and "expected_wire_bytes",
      those of a ring all-reduce without headers.

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
                    Worker(name, command(name), tf_config(addresses, number))
                )
                for number in range(_WORKERS)
            ]
            descriptions = [worker.answer() for worker in workers]
            if "refused" in descriptions[0]:
                say(f"{name} is left out: {descriptions[0]['refused']}")
                results[name] = None
                continue
            wire_bytes = _wire_bytes_per_step(workers, rounds, steps)
        exchange = descriptions[0]["exchange"]
        results[name] = {
            **exchange,
            # In a ring, each worker sends its own values to the next one, then the sum.
            "expected_wire_bytes": 2 * (_WORKERS - 1) * exchange["bytes"],
            "wire_bytes": wire_bytes,
        }
    return results


def _wire_bytes_per_step(
    workers: Sequence[Worker], rounds: int, steps: int
) -> int | None:
    measured = []
    for _ in range(rounds):
        before = loopback_bytes()
        for worker in workers:
            worker.send({"steps": steps})
        for worker in workers:
            worker.answer()
        after = loopback_bytes()
        if before is not None:
            measured.append((after - before) / steps)
    return round(statistics.median(measured)) if measured else None


def tf_config(addresses: Sequence[str], number: int) -> dict[str, str]:
    """Returns the environment variable that makes a process one of several workers.

    Args:
      addresses: host:port of every worker.
      number: the index of this worker's address.
    """
    config = {
        "cluster": {"worker": list(addresses)},
        "task": {"type": "worker", "index": number},
    }
    return {"TF_CONFIG": json.dumps(config)}


def free_addresses(count: int) -> list[str]:
    """Returns addresses of this machine, host:port, that no process listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def loopback_bytes() -> int | None:
    """Returns the bytes that this machine has sent to itself, or None if unknown."""
    counters = Path("/proc/net/dev")
    if not counters.exists():
        return None
    return int(re.search(r"lo:\s*(\d+)", counters.read_text())[1])


def exchange_table(measured: Mapping[str, Mapping | None]) -> str:
    """Returns a Markdown table of what `measure_communication` returned.

    A method that was left out has no row.

    Args:
      measured: the figures by method.
    """
    lines = [
        "MB per step; all-reduced: by each worker; on the wire: by both together.",
        "",
        "| method | all-reduces | gradients | batch normalization | all-reduced "
        "| on the wire, expected of a ring | on the wire, measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in measured.items():
        if row is None:
            continue
        batch_normalization = row["bytes"] - row["gradient_bytes"] - row["metric_bytes"]
        sizes = (
            row["gradient_bytes"],
            batch_normalization,
            row["bytes"],
            row["expected_wire_bytes"],
            row["wire_bytes"],
        )
        shown = ("unknown" if x is None else f"{x / 1e6:.3f}" for x in sizes)
        lines.append(f"| `{name}` | {row['all_reduces']} | {' | '.join(shown)} |")
    return "\n".join(lines)
