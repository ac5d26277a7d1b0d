"""Classifies images with MediaPipe Tasks: a program without this project.

python -S -E mediapipe_client.py PACKAGES MODELS IMAGES, of which the first is the
folder that MediaPipe is installed in, the second a comma-separated list of .tflite
files, the third a .npy file, uint8 [n, h, w, 3]. Prints JSON: for each model its
metadata, as MediaPipe's own reader of the schema sees it, and its answers.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

import mediapipe
import numpy as np
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as tflite
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions


def classify(path, images):
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=path), max_results=5
    )
    answers = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for pixels in images:
            image = mediapipe.Image(
                image_format=mediapipe.ImageFormat.SRGB,
                data=np.ascontiguousarray(pixels),
            )
            answers.append(
                {
                    head.head_name: [
                        [each.category_name or "", each.score]
                        for each in head.categories
                    ]
                    for head in classifier.classify(image).classifications
                }
            )
    return answers


def plain(value):
    """Returns a table of a flatbuffer as JSON; without fields that are not set."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dict__"):
        return {
            name: plain(each) for name, each in vars(value).items() if each is not None
        }
    return value


def metadata(path):
    with open(path, "rb") as file:
        model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(file.read()))
    (entry,) = [each for each in model.metadata if each.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
    return plain(
        schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(content))
    )


loaded = np.load(sys.argv[3])
print(
    json.dumps(
        [
            {"metadata": metadata(path), "answers": classify(path, loaded)}
            for path in sys.argv[2].split(",")
        ]
    )
)
