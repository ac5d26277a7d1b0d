"""Classifies image files with MediaPipe Tasks and a .tflite file of afd_tf.

pip install mediapipe pillow
python mediapipe_classify.py model.tflite image.jpg ...
"""

import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.components.containers.rect import RectF
from mediapipe.tasks.python.core.base_options import BaseOptions
from mediapipe.tasks.python.vision.core.image_processing_options import (
    ImageProcessingOptions,
)
from PIL import Image, ImageOps


def centre(image: mediapipe.Image) -> ImageProcessingOptions:
    """Returns the central square of an image: otherwise it would be distorted."""
    side = min(image.width, image.height)
    width, height = side / image.width, side / image.height
    left, top = (1 - width) / 2, (1 - height) / 2
    return ImageProcessingOptions(
        RectF(left=left, top=top, right=left + width, bottom=top + height)
    )


model, *paths = sys.argv[1:]
options = vision.ImageClassifierOptions(
    base_options=BaseOptions(model_asset_path=model), max_results=5
)
with vision.ImageClassifier.create_from_options(options) as classifier:
    for path in paths:
        # Turned upright, and in colour, which MediaPipe does not see to.
        pixels = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image = mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.asarray(pixels)
        )
        (head,) = classifier.classify(image, centre(image)).classifications
        answer = "  ".join(f"{c.score:.4f} {c.category_name}" for c in head.categories)
        print(f"{path}: {answer}")
