"""Classifies image files, or what a camera sees, with a .tflite file of afd_tf.

pip install ai-edge-litert numpy pillow      # and opencv-python-headless for a camera
python classify.py model.tflite image.jpg ... [--top_k=5]
python classify.py model.tflite --camera=0

The class names are in the file; so is the normalization of the pixels.
"""

import argparse
import time
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def pixels_of(image: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """Returns the largest centre of the network's shape, uint8 [1, h, w, c]."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    scale = min(image.height / height, image.width / width)
    rows, columns = round(height * scale), round(width * scale)
    left, top = (image.width - columns) // 2, (image.height - rows) // 2
    image = image.crop((left, top, left + columns, top + rows))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(1, height, width, channels)


def camera(number: int):
    """Yields what a camera sees, until Ctrl-C."""
    import cv2

    capture = cv2.VideoCapture(number)
    while (frame := capture.read())[0]:
        yield "camera", Image.fromarray(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("model")
parser.add_argument("images", nargs="*")
parser.add_argument("--camera", type=int)
parser.add_argument("--top_k", type=int, default=5)
options = parser.parse_args()
with zipfile.ZipFile(options.model) as archive:
    names = archive.read("labels.txt").decode().removesuffix("\n").split("\n")
network = Interpreter(options.model, num_threads=2).get_signature_runner()
shape = network.get_input_details()["image"]["shape"][1:]
files = ((path, Image.open(path)) for path in options.images)
for title, image in files if options.camera is None else camera(options.camera):
    began = time.perf_counter()
    (scores,) = network(image=pixels_of(image, *shape))["probabilities"]
    took = 1e3 * (time.perf_counter() - began)
    best = np.argsort(-scores, kind="stable")[: options.top_k]
    answer = "  ".join(f"{scores[label]:.4f} {names[label]}" for label in best)
    print(f"{title}: {answer}  ({took:.1f} ms)", flush=True)
