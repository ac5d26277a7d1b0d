"""Initial weights from another run."""

from collections.abc import Sequence

from absl import flags

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.models import Peer
from afd_tf.training.checkpoints import load_peers

_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "A run directory whose last checkpoint gives the peers of a new run their initial "
    "weights; a classifier for another number of classes starts anew.",
)


def initialize_from_flags(peers: Sequence[Peer]) -> None:
    """Gives peers the weights of the run that --init_from names, if it is given.

    Raises:
      UserError: see `initialize_from`.
    """
    if _INIT_FROM.value is not None:
        initialize_from(_INIT_FROM.value, peers)


def initialize_from(run_dir: str, peers: Sequence[Peer]) -> None:
    """Copies the weights of a run's peers.

    Args:
      run_dir: a run directory with as many peers of the same kinds.
      peers: built networks; a classifier keeps its weights where its shape differs.

    Raises:
      UserError: no run directory, other peers, or images of other sizes or channels.
    """
    others, info = load_peers(run_dir)
    names, known = [peer.spec for peer in peers], [peer.spec for peer in others]
    if names != known:
        raise UserError(
            f"--init_from={run_dir} has the peers {','.join(known)}, not "
            f"{','.join(names)}: give --peers={','.join(known)}, or another run."
        )
    for peer, other in zip(peers, others, strict=True):
        heads = {id(each) for layer in peer.head for each in layer.variables}
        for variable, value in zip(peer.variables, other.variables, strict=True):
            if variable.shape == value.shape:
                variable.assign(value.numpy())
            elif id(variable) not in heads:
                shape = "x".join(map(str, info.image_shape))
                raise UserError(
                    f"--init_from={run_dir} was trained on images of {shape}: "
                    f"{variable.path} has the shape {tuple(value.shape)}, not "
                    f"{tuple(variable.shape)}: give a run with as many channels."
                )
    say(f"initial weights: {run_dir}.")
