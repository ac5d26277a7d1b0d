"""Small Keras models of a user, named python:tests.models.foreign_models:NAME."""

import keras
from keras import layers


def backbone(image_shape, filters=(8, 16)) -> keras.Model:
    """Two stages with batch normalization, no normalization and no head."""
    values = inputs = keras.Input(image_shape)
    for each in filters:
        values = layers.Conv2D(each, 3, 2, padding="same", use_bias=False)(values)
        values = layers.BatchNormalization(epsilon=2e-3)(values)
        values = layers.ReLU()(values)
    return keras.Model(inputs, values)


def cropped(image_shape) -> keras.Model:
    """One stage as in ConvNeXt, and the inside of its map as in NASNet."""
    inputs = keras.Input(image_shape)
    values = layers.Conv2D(8, 3, 2, padding="same")(inputs)
    values = layers.Conv2D(8, 5, padding="same", groups=8)(values)
    values = layers.Dense(6, activation="gelu")(values)
    values = layers.Cropping2D(((1, 0), (2, 1)))(layers.ReLU()(values))
    return keras.Model(inputs, values)


def classifier(image_shape, num_classes) -> keras.Model:
    """The usual shape of transfer learning in Keras: a body, called as one layer."""
    inputs = keras.Input(image_shape)
    values = layers.Rescaling(1 / 127.5, -1)(inputs)
    values = backbone(image_shape)(values, training=False)
    values = layers.GlobalAveragePooling2D()(values)
    values = layers.Dropout(0.5)(values)
    return keras.Model(inputs, layers.Dense(num_classes, activation="softmax")(values))


class MapAndLogits(keras.Model):
    """A model with a `call` of its own.

    Args:
      num_classes: number of logits.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        # A bias here would have rounding errors for a gradient, and Adam steps of them.
        self.convolution = layers.Conv2D(6, 3, 2, padding="same", use_bias=False)
        self.normalization = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)
        self.dense = layers.Dense(num_classes)

    def call(self, inputs, training=False):
        """Returns the map and the logits by their names."""
        values = self.convolution(inputs / 255.0)
        values = keras.ops.relu(self.normalization(values, training=training))
        pooled = keras.ops.mean(values, axis=(1, 2))
        logits = self.dense(self.dropout(pooled, training=training))
        return {"features": values, "logits": logits}


def subclass(num_classes) -> keras.Model:
    """Returns a `MapAndLogits`."""
    return MapAndLogits(num_classes)


def seven_classes() -> keras.Model:
    """Returns a `MapAndLogits` of seven classes, whatever the data set has."""
    return MapAndLogits(7)


def unbuilt() -> keras.Model:
    """Returns a model that has seen no images yet."""
    return keras.Sequential([layers.Conv2D(4, 3, 2), layers.ReLU()])


def two_inputs() -> keras.Model:
    """Returns a model of two images."""
    inputs = [keras.Input((16, 16, 3)) for _ in range(2)]
    return keras.Model(inputs, layers.Add()(inputs))


def two_outputs() -> keras.Model:
    """Returns a functional model with a map and logits."""
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, [inputs, layers.GlobalAveragePooling2D()(inputs)])


def no_map() -> keras.Model:
    """Returns a model that flattens its images."""
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs))


def text() -> str:
    """Returns no model."""
    return "model"
