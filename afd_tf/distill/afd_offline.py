"""AFD's losses with a frozen teacher (Chung et al. 2020, the offline table)."""

from collections.abc import Sequence

from afd_tf.distill.afd import (
    AdversarialFeatureDistillation,
    adversarial_settings_from_flags,
)
from afd_tf.distill.logit import logit_settings_from_flags
from afd_tf.distill.offline import Teacher
from afd_tf.models import Peer


def from_flags(
    peers: Sequence[Peer], frozen_teachers: Sequence[Teacher]
) -> AdversarialFeatureDistillation:
    """Builds AFD whose discriminators take the frozen teachers' maps for real.

    L = CE(y, z) + T^2 KL(z_t || z), and L_D, L_G as online with the teacher's map.
    """
    settings = logit_settings_from_flags()
    return AdversarialFeatureDistillation(
        peers,
        frozen_teachers=frozen_teachers,
        **adversarial_settings_from_flags(settings["recipe"]),
        **settings,
    )
