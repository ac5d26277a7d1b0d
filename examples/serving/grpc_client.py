"""Classifies image files, JPEG or PNG, with TensorFlow Serving over gRPC.

python grpc_client.py localhost:8500 digits image.png ...
"""

import sys
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main(address: str, model: str, *paths: str) -> None:
    """Prints a line for each file: its likeliest classes and their probabilities."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "encoded"
    contents = [Path(path).read_bytes() for path in paths]
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(contents))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=30).outputs
    classes, scores = (tf.make_ndarray(outputs[name]) for name in ("classes", "scores"))
    for path, names, values in zip(paths, classes, scores, strict=True):
        shown = (f"{n.decode()} {v:.4f}" for n, v in zip(names, values, strict=True))
        print(f"{path}: {', '.join(shown)}")


if __name__ == "__main__":
    # A file's name may hold bytes, and a class characters, that the terminal lacks.
    sys.stdout.reconfigure(errors="backslashreplace")
    main(*sys.argv[1:])
