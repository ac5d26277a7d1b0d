"""Batches and replicas, and TF_CONFIG."""

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.training.strategy import batch_size_from_flags


def test_batch_smaller_than_the_replicas_is_refused():
    class FourReplicas:
        num_replicas_in_sync = 4

    with flagsaver.as_parsed(batch_size="3"), pytest.raises(UserError, match="least 4"):
        batch_size_from_flags(FourReplicas())
    with flagsaver.as_parsed(batch_size="4"):
        assert batch_size_from_flags(FourReplicas()) == 4
