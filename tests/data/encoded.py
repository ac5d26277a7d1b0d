"""Images to be encoded, and their files."""

import io

import numpy as np
from PIL import Image

# How Pillow makes an image of each EXIF orientation upright.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def scene(height, width, channels=3, seed=0):
    """A smooth random image with some noise, uint8 [h, w, c]."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 6, channels), np.uint8)
    fine = np.stack(
        [
            np.asarray(
                Image.fromarray(coarse[..., channel]).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
            )
            for channel in range(channels)
        ],
        axis=-1,
    )
    noise = generator.integers(-8, 9, fine.shape)
    return np.clip(fine + noise, 0, 255).astype(np.uint8)


def file_of(pixels, encoding, orientation=None, **options):
    """The bytes of an image file."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if orientation is not None:
        exif = image.getexif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, encoding, **options)
    return file.getvalue()
