"""Classifies images with MediaPipe Tasks: a program without this project.

python mediapipe_client.py MODELS IMAGES, of which the first is a comma-separated list
of .tflite files, the second a .npy file, uint8 [n, h, w, 3]. Prints JSON: for each
model its metadata, as MediaPipe's own reader of the schema sees it, and its answers.
"""

import importlib
import json
import sys

import numpy as np

# By name: the tests' own environment has no MediaPipe.
mediapipe = importlib.import_module("mediapipe")
vision = importlib.import_module("mediapipe.tasks.python.vision")
base_options = importlib.import_module("mediapipe.tasks.python.core.base_options")
_METADATA = "mediapipe.tasks.metadata"
schema = importlib.import_module(f"{_METADATA}.metadata_schema_py_generated")
tflite = importlib.import_module(f"{_METADATA}.schema_py_generated")


def classify(path, images):
    options = vision.ImageClassifierOptions(
        base_options=base_options.BaseOptions(model_asset_path=path), max_results=5
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


loaded = np.load(sys.argv[2])
print(
    json.dumps(
        [
            {"metadata": metadata(path), "answers": classify(path, loaded)}
            for path in sys.argv[1].split(",")
        ]
    )
)
