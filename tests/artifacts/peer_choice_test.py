"""Peers by number and by name."""

import pytest

from afd_tf.artifacts import peer_choice
from afd_tf.base.errors import UserError


def test_name_of_several_peers_is_refused():
    with pytest.raises(UserError, match="2 peers are called 'resnet8'"):
        peer_choice.choose_peer(["resnet8", "resnet8"], "resnet8")


@pytest.mark.parametrize("choice", ["1", 1, "b"])
def test_peer_by_number_or_name(choice):
    assert peer_choice.choose_peer(["a", "b"], choice) == 1
