"""Who learns from whom."""

from afd_tf.base.errors import UserError, unknown_name

TOPOLOGIES = ("mutual", "cyclic")


def teachers(topology: str, peers: int) -> list[tuple[int, ...]]:
    """Returns for each learner the peers that teach it.

    Args:
      topology: "mutual": all others (Zhang et al. 2018); "cyclic": learner k learns
        from k - 1, the first from the last (Chung et al. 2020, more than two
        networks). Two peers are the same in both.
      peers: how many there are.

    Raises:
      UserError: an unknown topology, or fewer than two peers.
    """
    if topology not in TOPOLOGIES:
        raise unknown_name("topology", topology, TOPOLOGIES)
    if peers < 2:
        raise UserError(
            f"{peers} peer given, but this method needs two or more that learn from "
            "each other: add one, e.g. --peers=resnet20,resnet32, or train it alone "
            "with --method=independent."
        )
    if topology == "cyclic":
        return [((learner - 1) % peers,) for learner in range(peers)]
    return [
        tuple(other for other in range(peers) if other != learner)
        for learner in range(peers)
    ]


def frozen(peers: int, frozen_teachers: int) -> list[tuple[int, ...]]:
    """Returns for each learner all frozen teachers, which are counted after the peers.

    Args:
      peers: how many students there are.
      frozen_teachers: how many teach all of them.
    """
    return [tuple(range(peers, peers + frozen_teachers))] * peers
