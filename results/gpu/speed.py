"""Speed of AFD's step of two ResNet-32 on a GPU, beside PyTorch's on the same GPU.

    PYTHONPATH=. python results/gpu/speed.py [--pytorch=PYTHON] FLAGS_OF_TRAINING

One process for each setting of `afd_tf` and each of `pytorch_step.py`, or for those of
--names. All are started and warmed up at once; then each takes its steps alone, in
interleaved rounds. PYTHON is an interpreter that has PyTorch; what is left over are
flags of the training. Prints one JSON object.
"""

import argparse
import contextlib
import statistics
import sys
from pathlib import Path

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import print_json
from afd_tf.benchmarks.worker_process import Worker, run_interleaved

_BATCH = 128
# A name is followed by the flags that it stands for.
_SETTINGS = (
    "afd_tf",
    "afd_tf --jit_compile",
    "afd_tf --precision=mixed_bfloat16",
    "afd_tf --precision=mixed_float16",
    "afd_tf --jit_compile --precision=mixed_bfloat16",
)
_PYTORCH = [
    f"{mode} {precision}"
    for mode in ("eager", "compile", "graph")
    for precision in ("float32", "bfloat16")
]


def main():
    """Measures all settings and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pytorch", help="A Python interpreter that has PyTorch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--names", help="With commas between them; all by default.")
    arguments, training_flags = parser.parse_known_args()
    here = Path(__file__).parent
    worker = [sys.executable, "-m", "afd_tf.benchmark", "worker", *training_flags]
    commands = {
        name: ([*worker, *name.split()[1:]], {"TF_FORCE_GPU_ALLOW_GROWTH": "true"})
        for name in _SETTINGS
    }
    if arguments.pytorch:
        paths = {"PYTHONPATH": str(here.parent.parent), "LD_LIBRARY_PATH": ""}
        for name in _PYTORCH:
            command = [arguments.pytorch, str(here / "pytorch_step.py"), *name.split()]
            commands[f"PyTorch {name}"] = (command, paths)
    names = arguments.names.split(",") if arguments.names else commands
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, *commands[name])) for name in names]
        ready = []
        results = {}
        for worker in workers:
            try:
                description = worker.answer()
            except UserError as error:
                description = {"refused": str(error)}
            results[worker.name] = description
            if "refused" in description:
                say(f"{worker.name} is left out: {description['refused']}")
            else:
                ready.append(worker)
                say(f"{worker.name}: ready")
        request = {"steps": arguments.steps}
        run_interleaved(ready, 1, request)
        measured = run_interleaved(ready, arguments.rounds, request)
        for worker, answers in zip(ready, measured, strict=True):
            rates = [_BATCH * arguments.steps / each["seconds"] for each in answers]
            results[worker.name].update(
                images_per_second=[round(rate) for rate in rates],
                median=round(statistics.median(rates)),
                peak_memory=answers[-1]["peak_memory"],
            )
    print_json({"batch_size": _BATCH, "steps": arguments.steps, "results": results})


if __name__ == "__main__":
    main()
