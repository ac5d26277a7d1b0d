"""Measures an exported version under load: TensorFlow, ONNX Runtime and OpenVINO.

pip install tensorflow onnxruntime openvino
python examples/serving/measure.py savedmodels/x/1 > serving.json

The version needs a SavedModel and model.onnx (--formats=saved_model,onnx). Each runtime
serves in a process of its own, over HTTP on loopback; the clients are in this one. All
are measured in one run, one after the other in each round, so that other work on the
machine meets all of them.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from load import load

# Before they are measured, runtimes trace, allocate and start threads.
WARM_UP_REQUESTS = 20
LARGEST_BODY = 1 << 26


def tensorflow(version: Path, threads: int):
    """Returns a function of images for the SavedModel."""
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="2")
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = tf.saved_model.load(str(version))
    run = model.signatures["serving_default"]
    run.model = model  # The variables live as long as it does.
    return lambda images: run(image=tf.constant(images))["probabilities"].numpy()


def onnxruntime(version: Path, threads: int):
    """Returns a function of images for model.onnx."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(
        version / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def openvino(version: Path, threads: int):
    """Returns a function of images for model.onnx, in float32 as the others."""
    return openvino_default(version, threads, INFERENCE_PRECISION_HINT="f32")


def openvino_default(version: Path, threads: int, **settings):
    """The same in the precision that OpenVINO chooses: bfloat16 on some processors."""
    settings["INFERENCE_NUM_THREADS"] = threads
    core = importlib.import_module("openvino").Core()
    model = core.compile_model(version / "model.onnx", "CPU", settings)
    own = threading.local()

    def run(images):
        # A request takes one batch at a time.
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        return own.request.infer({"image": images})["probabilities"]

    return run


RUNTIMES = {
    each.__name__: each
    for each in (tensorflow, onnxruntime, openvino, openvino_default)
}


def serve(runtime: str, version: Path, threads: int) -> None:
    """Answers requests: raw pixels of any number of images → their probabilities."""
    manifest = json.loads((version / "manifest.json").read_text("utf-8"))
    shape = manifest["dataset"]["image_shape"]
    run = RUNTIMES[runtime](version, threads)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # Head and body together.

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            status = 400
            content = b"not a whole number of images"
            if 0 < length <= LARGEST_BODY and length % np.prod(shape) == 0:
                pixels = np.frombuffer(self.rfile.read(length), np.uint8)
                status = 200
                content = run(pixels.reshape(-1, *shape)).tobytes()
            else:
                self.close_connection = True
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        # Until whoever started it is gone.
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()


@contextlib.contextmanager
def started(runtime: str, version: Path, threads: int):
    """Yields the address of a runtime's own process."""
    process = subprocess.Popen(
        [
            sys.executable,
            __file__,
            version,
            f"--serve={runtime}",
            f"--threads={threads}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise SystemExit(f"error: {runtime} did not start; its message is above.")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def answers(url: str, images: np.ndarray) -> np.ndarray:
    """Returns the probabilities that a process answers with."""
    with urllib.request.urlopen(url, images.tobytes(), timeout=60) as answer:
        return np.frombuffer(answer.read(), np.float32).reshape(len(images), -1)


def measure(urls: dict[str, str], shape: list[int], options) -> dict:
    """Returns how far the answers differ, and every measurement of every round."""
    generator = np.random.default_rng(0)
    largest = max(options.batch_sizes)
    images = generator.integers(0, 256, (largest, *shape), dtype=np.uint8)
    probabilities = {name: answers(url, images) for name, url in urls.items()}
    first = probabilities[next(iter(urls))]
    measured = []
    for number in range(options.rounds):
        for batch_size in options.batch_sizes:
            for runtime, url in urls.items():
                body = images[:batch_size].tobytes()
                clients, requests = options.clients, options.requests
                load(
                    url, body, clients, min(WARM_UP_REQUESTS, requests), options.seconds
                )
                found = load(url, body, clients, requests, options.seconds)
                speed = round(found["requests"] * batch_size / found["seconds"], 1)
                measured.append(
                    {"round": number, "runtime": runtime, "batch_size": batch_size}
                    | {"images_per_second": speed, **found}
                )
                print(json.dumps(measured[-1]), file=sys.stderr)
    return {
        # From the first runtime, of these images.
        "probability_difference": {
            name: float(np.abs(own - first).max())
            for name, own in probabilities.items()
        },
        "medians": medians(measured),
        "measurements": measured,
    }


def medians(measured: list[dict]) -> list[dict]:
    """Returns the median over the rounds, for each runtime and size of a batch."""
    groups = {}
    for each in measured:
        groups.setdefault((each["runtime"], each["batch_size"]), []).append(each)
    return [
        {"runtime": runtime, "batch_size": batch_size}
        | {
            key: round(statistics.median(each[key] for each in group), 2)
            for key in ("images_per_second", "p50_ms", "p99_ms")
        }
        for (runtime, batch_size), group in groups.items()
    ]


def table(rows: list[dict]) -> str:
    """Returns medians as Markdown, as docs/serving.md shows them."""
    lines = [
        "| runtime | images in a request | images per second | p50, ms | p99, ms |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["batch_size"]):
        lines.append(
            f"| `{row['runtime']}` | {row['batch_size']} | "
            f"{row['images_per_second']:,.0f} | {row['p50_ms']:.1f} | "
            f"{row['p99_ms']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, or, with --serve, is the process of one runtime."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", type=Path)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=[*RUNTIMES])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32])
    for name, default in (("threads", 2), ("clients", 4), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--requests", type=int, default=2000, help="at most, each time")
    parser.add_argument("--seconds", type=float, default=5.0, help="at most, each time")
    parser.add_argument("--serve", choices=RUNTIMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    manifest = options.version / "manifest.json"
    for path in (manifest, options.version / "model.onnx"):
        if not path.is_file():
            raise SystemExit(
                f"error: there is no {path}: give a version that was exported with "
                "--formats=saved_model,onnx."
            )
    if options.serve:
        serve(options.serve, options.version, options.threads)
        return
    described = json.loads(manifest.read_text("utf-8"))
    with contextlib.ExitStack() as stack:
        urls = {
            name: stack.enter_context(started(name, options.version, options.threads))
            for name in options.runtimes
        }
        found = measure(urls, described["dataset"]["image_shape"], options)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "network": described["name"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "onnxruntime", "openvino")
            if any(runtime.startswith(name) for runtime in urls)
        },
        "threads": options.threads,
        "clients": options.clients,
    }
    print(table(found["medians"]), file=sys.stderr)
    print(json.dumps(about | found, indent=1))


if __name__ == "__main__":
    main()
