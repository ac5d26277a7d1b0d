"""What the flags of `afd_tf.data` choose from, without TensorFlow."""

AUGMENTATIONS = ("none", "cifar", "imagenet", "randaugment")
PADDINGS = ("reflect", "zero")
SAMPLINGS = ("shuffled", "balanced")

# Of RandAugment.
MAX_MAGNITUDE = 30

# The smallest part of an image that a crop has by default, as in torchvision.
LEAST_AREA = 0.08
