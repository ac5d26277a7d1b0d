"""Knowledge distillation (Hinton, Vinyals and Dean 2015)."""

from collections.abc import Sequence

from afd_tf.distill.logit import logit_settings_from_flags
from afd_tf.distill.offline import OfflineDistillation, Teacher
from afd_tf.models import Peer


class KnowledgeDistillation(OfflineDistillation):
    """L = a CE(y, z) + b * mean over teachers t of T^2 KL(z_t || z).

    On the command line a = 0.1, b = 0.9, T = 4, as in Tian et al. (2020).
    """


def from_flags(peers: Sequence[Peer], teachers: Sequence[Teacher]):
    """Builds the method from the command line."""
    return KnowledgeDistillation(peers, teachers, **logit_settings_from_flags())
