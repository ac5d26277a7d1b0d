"""AFD's losses with a frozen teacher (Chung et al. 2020, the offline table)."""

from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.methods import afd


def settings_from_flags() -> dict:
    """Returns the keyword arguments of AFD with frozen teachers.

    L = CE(y, z) + T^2 KL(z_t || z), and L_D, L_G as online with the teacher's map; the
    discriminators take the frozen teachers' maps for real.
    """
    return {**logit_settings_from_flags(), **afd.adversarial_settings_from_flags()}
