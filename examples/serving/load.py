"""Sends an image file to TensorFlow Serving on this machine, many times, and measures.

python load.py http://localhost:8501/v1/models/digits:predict image.png --batch_size=8
"""

import argparse
import base64
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit


def load(url: str, body: bytes, clients: int, requests: int, seconds: float) -> dict:
    """Lets clients send a body, each its next when it has an answer, until a bound."""
    address = urlsplit(url)
    if address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise SystemExit(f"error: {url} is not on this machine: give one on localhost.")
    numbers, end, took = iter(range(requests)), time.perf_counter() + seconds, []

    def send(_):
        connection = HTTPConnection(address.hostname, address.port, timeout=60)
        for _ in numbers:
            began = time.perf_counter()
            if began >= end:
                break
            connection.request("POST", address.path, body)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise SystemExit(f"error: {answer.status} {content[:200]!r}")
            took.append(1e3 * (time.perf_counter() - began))

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, range(clients)))
    lasted = time.perf_counter() - began
    if len(took) < 2:
        raise SystemExit(f"error: {len(took)} answers in {lasted:.1f} s: allow more.")
    percentiles = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "requests": len(took),
        "seconds": round(lasted, 3),
        "requests_per_second": round(len(took) / lasted, 1),
        "p50_ms": round(percentiles[49], 2),
        "p99_ms": round(percentiles[98], 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("image", type=Path)
    for name, default in (("batch_size", 1), ("clients", 4), ("requests", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = vars(parser.parse_args())
    content = base64.b64encode(options.pop("image").read_bytes()).decode()
    row = {"image_bytes": {"b64": content}}
    rows = [row] * options.pop("batch_size")
    request = {"signature_name": "encoded", "instances": rows}
    print(json.dumps(load(body=json.dumps(request).encode(), **options)))
