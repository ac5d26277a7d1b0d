import pytest

from afd_tf.base.errors import UserError
from afd_tf.data import choices


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("cifar100", (32, 32, 3), "cifar"),
        ("mnist", (28, 28, 1), "none"),
        ("svhn_cropped", (32, 32, 3), "none"),
        ("imagenet2012", (224, 224, 3), "imagenet"),
        ("tiny", (64, 64, 3), "cifar"),
    ],
)
def test_auto(name, shape, expected):
    assert (
        choices.resolve_augmentation("auto", name=name, image_shape=shape) == expected
    )
    assert choices.resolve_augmentation("none", name=name, image_shape=shape) == "none"


def test_unknown_augmentation():
    with pytest.raises(UserError, match="Did you mean 'cifar'"):
        choices.resolve_augmentation("cifer", name="x", image_shape=(8, 8, 3))
