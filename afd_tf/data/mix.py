"""Mixed training images: mixup and CutMix."""

from collections.abc import Mapping

import tensorflow as tf

_PHILOX = {"alg": "philox"}


def mix_batch(
    batch: Mapping[str, tf.Tensor], seed: tf.Tensor, *, mixup: float, cutmix: float
) -> dict[str, tf.Tensor]:
    """Mixes each image with a partner: image p of n with image n - 1 - p.

    The whole batch is mixed in one proportion. With both kinds, one of them is chosen
    for the batch, with even chances. (Pairs and chances are those of timm.)

    Args:
      batch: "image", uint8 [n, h, w, c], and "label", int32 [n]. With each image its
        partner has to be in it, in the order of the whole batch.
      seed: int64 [2], of the whole batch.
      mixup: alpha of the distribution Beta(alpha, alpha) of lambda in
        x = lambda x_own + (1 - lambda) x_partner (Zhang et al. 2018); 0 is no mixup.
      cutmix: alpha of the distribution of lambda for CutMix (Yun et al. 2019), which
        pastes a box of about (1 - lambda) h w pixels of the partner; 0 is no CutMix.

    Returns:
      "image", uint8 [n, h, w, c], rounded; "label", unchanged; "mixed_label", int32
      [n], of the partners; and "mixed_weight", float32 [n] in 0..1, their weight: the
      target is (1 - mixed_weight) label + mixed_weight mixed_label. It is 1 - lambda,
      or for CutMix the part of the pixels that are the partner's.
    """
    images, labels = batch["image"], batch["label"]
    kind_seed, seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, **_PHILOX)
    )
    if mixup and cutmix:
        pixels, weight = tf.cond(
            tf.random.stateless_uniform([], kind_seed, **_PHILOX) < 0.5,
            lambda: blend(images, partner_weight(seed, mixup)),
            lambda: cut_and_paste(images, seed, cutmix),
        )
    elif mixup:
        pixels, weight = blend(images, partner_weight(seed, mixup))
    else:
        pixels, weight = cut_and_paste(images, seed, cutmix)
    return {
        "image": tf.ensure_shape(pixels, images.shape),
        "label": labels,
        "mixed_label": tf.reverse(labels, [0]),
        "mixed_weight": tf.fill(tf.shape(labels), weight),
    }


def partner_weight(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Draws 1 - lambda from Beta(alpha, alpha), float32 scalar in 0..1.

    Args:
      seed: int64 [2].
      alpha: above 0.
    """
    gamma_seed, uniform_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, **_PHILOX)
    )
    # Beta is g / (g + h) of two gamma variables. Small alphas make both of them
    # underflow, but not the logarithms of Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha).
    shape = tf.constant(alpha, tf.float64)
    gammas = tf.random.stateless_gamma([2], gamma_seed, shape + 1, dtype=tf.float64)
    uniform = tf.random.stateless_uniform(
        [2], uniform_seed, dtype=tf.float64, **_PHILOX
    )
    logarithms = tf.math.log(gammas) + tf.math.log1p(-uniform) / shape
    return tf.cast(tf.sigmoid(logarithms[0] - logarithms[1]), tf.float32)


def blend(images: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds its partner to each image, as mixup does.

    Args:
      images: uint8 [n, h, w, c].
      weight: of the partners, float32 scalar in 0..1.

    Returns:
      (1 - weight) own + weight partner, rounded, uint8 [n, h, w, c]; and the weight.
    """
    own = tf.cast(images, tf.float32)
    partners = tf.cast(tf.reverse(images, [0]), tf.float32)
    # Casting cuts off what is behind the point.
    return tf.cast(own + weight * (partners - own) + 0.5, tf.uint8), weight


def cut_and_paste(
    images: tf.Tensor, seed: tf.Tensor, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes the same box of its partner into each image, as CutMix does.

    Its centre is anywhere in the image; what would lie outside is cut off.

    Args:
      images: uint8 [n, h, w, c].
      seed: int64 [2].
      alpha: of Beta(alpha, alpha), from which the area is drawn.

    Returns:
      uint8 [n, h, w, c]; and the part of the pixels in the box, float32 scalar.
    """
    area_seed, centre_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2, **_PHILOX)
    )
    side = tf.sqrt(partner_weight(area_seed, alpha))
    size = tf.shape(images)[1:3]
    centre = tf.cast(
        tf.random.stateless_uniform([2], centre_seed, **_PHILOX)
        * tf.cast(size, tf.float32),
        tf.int32,
    )
    half = tf.cast(side * tf.cast(size, tf.float32), tf.int32) // 2
    top, left = tf.unstack(tf.maximum(centre - half, 0))
    bottom, right = tf.unstack(tf.minimum(centre + half, size))
    partners = tf.reverse(images, [0])
    own_rows = images[:, top:bottom]
    rows = tf.concat(
        [
            own_rows[:, :, :left],
            partners[:, top:bottom, left:right],
            own_rows[:, :, right:],
        ],
        axis=2,
    )
    # Slices are copied as a whole, where a mask would choose pixel by pixel.
    pixels = tf.concat([images[:, :top], rows, images[:, bottom:]], axis=1)
    weight = (bottom - top) * (right - left) / (size[0] * size[1])
    return pixels, tf.cast(weight, tf.float32)
