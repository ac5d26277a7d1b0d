"""Knowledge distillation (Hinton, Vinyals and Dean 2015)."""

from afd_tf.distill.logit_distillation import logit_settings_from_flags
from afd_tf.distill.offline_distillation import OfflineDistillation


class KnowledgeDistillation(OfflineDistillation):
    """L = a CE(y, z) + b * mean over teachers t of T^2 KL(z_t || z).

    By its name, a = 0.1, b = 0.9, T = 4, as in Tian et al. (2020).
    """


def settings_from_flags() -> dict:
    """Returns the keyword arguments of the method from the command line."""
    return logit_settings_from_flags()
