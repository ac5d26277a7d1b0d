"""The peers: parameter counts, shapes, gradients and names."""

import numpy as np
import pytest
import tensorflow as tf

from afd_tf import models
from afd_tf.base.errors import UserError
from afd_tf.models import build_peer
from tests import tiny
from tests.models import harness
from tests.models.harness import Expected

# Trainable numbers for 100 classes and 32x32x3 images.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_16_4": 2_772_020,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_28_10": 36_536_884,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    # What torchvision states for 1000 classes.
    "imagenet_resnet18": 11_689_512 - 900 * 513,
    "imagenet_resnet34": 21_797_672 - 900 * 513,
    "imagenet_resnet50": 25_557_032 - 900 * 2049,
    "imagenet_resnet18_small": 11_220_132,
    "imagenet_resnet34_small": 21_328_292,
    "imagenet_resnet50_small": 23_705_252,
    "mobilenet_v2_50": 812_836,
    "mobilenet_v2_100": 2_353_060,
    "shufflenet_v2_50": 443_716,
    "shufflenet_v2_100": 1_355_528,
    "shufflenet_v2_150": 2_580_548,
    # What efficientnet-lite-pytorch has for 1000 classes.
    "efficientnet_lite0": 4_652_008 - 900 * 1281,
    "efficientnet_lite1": 5_416_680 - 900 * 1281,
    "efficientnet_lite2": 6_092_072 - 900 * 1281,
    "efficientnet_lite3": 8_197_096 - 900 * 1281,
    "efficientnet_lite4": 13_006_568 - 900 * 1281,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
}

PEERS = (
    Expected(
        "resnet8",
        (16, 16, 3),
        parameters=PARAMETERS["resnet8"],
        taps={
            "stem": (16, 16, 16),
            "stage_1": (16, 16, 16),
            "stage_2": (8, 8, 32),
            "stage_3": (4, 4, 64),
        },
    ),
    Expected(
        "resnet8x4",
        (9, 14, 3),
        parameters=PARAMETERS["resnet8x4"],
        taps={
            "stem": (9, 14, 32),
            "stage_1": (9, 14, 64),
            "stage_2": (5, 7, 128),
            "stage_3": (3, 4, 256),
        },
    ),
    Expected(
        "wrn_10_2",
        (8, 8, 1),
        parameters=315_028,
        taps={
            "stem": (8, 8, 16),
            "stage_1": (8, 8, 32),
            "stage_2": (4, 4, 64),
            "stage_3": (2, 2, 128),
            "features": (2, 2, 128),
        },
    ),
    Expected(
        "imagenet_resnet18",
        (48, 40, 3),
        parameters=PARAMETERS["imagenet_resnet18"],
        taps={
            "stem": (12, 10, 64),
            "stage_1": (12, 10, 64),
            "stage_2": (6, 5, 128),
            "stage_3": (3, 3, 256),
            "stage_4": (2, 2, 512),
        },
    ),
    Expected(
        "imagenet_resnet50_small",
        (16, 16, 3),
        parameters=PARAMETERS["imagenet_resnet50_small"],
        taps={
            "stem": (16, 16, 64),
            "stage_1": (16, 16, 256),
            "stage_2": (8, 8, 512),
            "stage_3": (4, 4, 1024),
            "stage_4": (2, 2, 2048),
        },
    ),
    Expected(
        "mobilenet_v2_50",
        (32, 32, 3),
        parameters=PARAMETERS["mobilenet_v2_50"],
        taps={
            "stem": (16, 16, 16),
            "stage_1": (16, 16, 12),
            "stage_2": (8, 8, 16),
            "stage_3": (4, 4, 48),
            "stage_4": (2, 2, 160),
            "features": (2, 2, 1280),
        },
    ),
    Expected(
        "shufflenet_v2_50",
        (20, 13, 3),
        parameters=PARAMETERS["shufflenet_v2_50"],
        taps={
            "stem": (20, 13, 24),
            "stage_1": (10, 7, 48),
            "stage_2": (5, 4, 96),
            "stage_3": (3, 2, 192),
            "features": (3, 2, 1024),
        },
    ),
    Expected(
        "efficientnet_lite0",
        (40, 64, 3),
        parameters=PARAMETERS["efficientnet_lite0"],
        taps={
            "stem": (20, 32, 32),
            "stage_1": (20, 32, 16),
            "stage_2": (10, 16, 24),
            "stage_3": (5, 8, 40),
            "stage_4": (3, 4, 112),
            "stage_5": (2, 2, 320),
            "features": (2, 2, 1280),
        },
    ),
    Expected(
        "vgg8",
        (16, 12, 3),
        parameters=PARAMETERS["vgg8"],
        taps={
            "stage_1": (16, 12, 64),
            "stage_2": (8, 6, 128),
            "stage_3": (4, 3, 256),
            "stage_4": (2, 2, 512),
            "stage_5": (2, 2, 512),
        },
        multiply_adds=192 * 9 * 3 * 64
        + 48 * 9 * 64 * 128
        + 12 * 9 * 128 * 256
        + 4 * 9 * 256 * 512
        + 4 * 9 * 512 * 512
        + 512 * 100,
    ),
)


# Of a network of 24 million parameters: imagenet_resnet18 has the same operators and
# kinds of variables.
SPARED = {
    ("imagenet_resnet50_small", harness.tflite),
    ("imagenet_resnet50_small", harness.checkpoint),
}


@pytest.fixture(scope="module")
def case(request, tmp_path_factory):
    return harness.Case(request.param, tmp_path_factory.mktemp(request.param.name))


# Keras' own `save_weights` warns so under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(peer, check, id=f"{peer.name}-{check.__name__}")
        for peer in PEERS
        for check in harness.CHECKS
        if (peer.name, check) not in SPARED
    ],
    indirect=["case"],
    scope="module",
)
def test_peer(case, check):
    check(case)


@pytest.mark.parametrize(
    "name",
    # `test_peer` counts the others.
    [name for name in PARAMETERS if name not in {each.name for each in PEERS}],
)
def test_parameters(name):
    peer = build_peer(name, tiny.info((32, 32, 3), classes=100))
    assert peer.parameters == PARAMETERS[name]
    head = peer.classifier.count_params()
    assert sum(v.value.shape.num_elements() for v in peer.feature_variables) == (
        PARAMETERS[name] - head
    )


def test_every_name_has_its_parameters_counted():
    names = [name for _, names in models.PEERS.values() for name in names]
    assert [*PARAMETERS, "small", "small_wide"] == names


@pytest.mark.parametrize(
    ("name", "image_shape", "features"),
    [
        ("resnet8", (32, 32, 3), (8, 8, 64)),
        ("resnet14", (28, 28, 1), (7, 7, 64)),
        ("wrn_10_2", (8, 8, 1), (2, 2, 128)),
        ("wrn_16_1", (20, 13, 3), (5, 4, 64)),
        ("imagenet_resnet18", (224, 224, 3), (7, 7, 512)),
        ("shufflenet_v2_100", (32, 32, 3), (4, 4, 1024)),
        ("vgg8", (32, 32, 3), (4, 4, 512)),
    ],
)
def test_feature_shape_and_taps(name, image_shape, features):
    peer = build_peer(name, tiny.info(image_shape))
    assert peer.feature_shape == features
    images = tf.zeros([2, *image_shape], tf.uint8)
    taps = peer.taps(images)
    np.testing.assert_array_equal(list(taps.values())[-1], peer(images).features)
    assert {"stage_1", "stage_2", "stage_3"} <= taps.keys()


def test_the_same_seed_gives_the_same_network():
    one, two = (tiny.peers("resnet8", seed=3)[0] for _ in range(2))
    other = tiny.peers("resnet8", seed=4)[0]
    for a, b in zip(
        tiny.values(one.variables), tiny.values(two.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    kernel, different = (
        p.body["stem"].convolution.kernel.numpy() for p in (one, other)
    )
    assert not np.array_equal(kernel, different)
    # Two peers of a run begin differently.
    first, second = tiny.peers("resnet8", "resnet8")
    assert not np.array_equal(
        first.body["stem"].convolution.kernel.numpy(),
        second.body["stem"].convolution.kernel.numpy(),
    )


def test_he_initialization():
    peer = build_peer("wrn_10_4", tiny.info())
    kernel = peer.body["stage_3"].layers[0].second.kernel.numpy()  # 3x3, 256 to 256
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
    assert abs(kernel.mean()) < 1e-3
    bound = 1 / np.sqrt(256)
    head = peer.classifier.kernel.numpy()
    assert np.abs(head).max() <= bound
    assert np.std(head) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_branches_share_all_but_their_own_stages():
    peers = models.build_peers(["resnet8"] * 3, tiny.info(), own_stages=1)
    first, *others = peers
    for other in others:
        for name in ("stem", "stage_1", "stage_2"):
            assert other.body[name] is first.body[name]
    shared = {
        id(variable)
        for name in ("stem", "stage_1", "stage_2")
        for variable in first.body[name].variables
    }
    for peer in peers:
        assert list(peer.body) == ["stem", "stage_1", "stage_2", "stage_3"]
        assert shared <= {id(variable) for variable in peer.variables}
        own = [*peer.body["stage_3"].variables, *peer.classifier.variables]
        assert len(own) + len(shared) == len(peer.variables)
        for other in peers:
            if other is not peer:
                assert not {id(v) for v in own} & {id(v) for v in other.variables}
    logits = [peer(tiny.batch()["image"]).logits.numpy() for peer in peers]
    assert np.abs(logits[0] - logits[1]).min() > 0


def test_branches_of_a_network_with_features_behind_its_stages():
    first, second = models.build_peers(["wrn_10_1"] * 2, tiny.info(), own_stages=2)
    same = [name for name in first.body if first.body[name] is second.body[name]]
    assert same == ["stem", "stage_1"]


def test_peers_without_branches_share_nothing():
    first, second = models.build_peers(["resnet8"] * 2, tiny.info())
    assert not {id(v) for v in first.variables} & {id(v) for v in second.variables}


@pytest.mark.parametrize(
    ("names", "own_stages", "hint"),
    [
        (["resnet8", "resnet14"], 1, "one kind, not --peers=resnet8,resnet14"),
        (["resnet8", "resnet8"], 3, "--own_stages=3.*less than 3, the stages of"),
    ],
)
def test_what_cannot_branch(names, own_stages, hint):
    with pytest.raises(UserError, match=hint):
        models.build_peers(names, tiny.info(), own_stages)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt20", "Did you mean 'resnet20'"),
        ("resnet21", "6 n \\+ 2.*'resnet20'"),
        ("wrn_17_2", "6 n \\+ 4.*'wrn_16_2'"),
        ("wrn_16_0", "'wrn_16_1'"),
        ("imagenet_resnet101", "imagenet_resnet18, .*34, imagenet_resnet50\\."),
        ("imagenet_resnet20_small", "imagenet_resnet18_small, .*50_small\\."),
        ("mobilenet_v2_6", "at least 7, e.g. mobilenet_v2_50"),
        ("shufflenet_v2_75", "shufflenet_v2_50, .*100, shufflenet_v2_150\\."),
        ("vgg12", "vgg8, vgg11, vgg13, vgg16, vgg19\\."),
        ("vgg_8", "Did you mean 'vgg8'"),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(UserError, match=hint):
        build_peer(name, tiny.info())


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match="3x3 are too small for resnet8"):
        build_peer("resnet8", tiny.info((3, 3, 1)))
