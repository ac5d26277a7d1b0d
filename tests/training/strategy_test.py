"""Batches and replicas, and TF_CONFIG."""

import json

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.training.strategy import batch_size_from_flags, worker_count_from_flags


def test_batch_smaller_than_the_replicas_is_refused():
    class FourReplicas:
        num_replicas_in_sync = 4

    with flagsaver.as_parsed(batch_size="3"), pytest.raises(UserError, match="least 4"):
        batch_size_from_flags(FourReplicas())
    with flagsaver.as_parsed(batch_size="4"):
        assert batch_size_from_flags(FourReplicas()) == 4


def tf_config(cluster, role="worker", index=0):
    task = {"type": role, "index": index}
    return json.dumps({"cluster": cluster, "task": task})


TWO = {"worker": ["host1:2222", "host2:2222"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is no JSON"),
        ("no JSON", "it is no JSON"),
        ("[1]", "it has no cluster"),
        ('{"cluster": {}, "task": {}}', "it has no cluster"),
        ('{"cluster": {"worker": ["a:1"]}, "task": 3}', "it has no task"),
        (tf_config({**TWO, "ps": ["host3:2222"]}), "the cluster has ps, and only"),
        (tf_config({"master": ["a:1"], **TWO}), "the cluster has master"),
        (tf_config({**TWO, "evaluator": ["a:1"]}), "the cluster has evaluator"),
        (tf_config({"worker": "host1:2222"}), "should be a list of addresses"),
        (tf_config({"worker": []}), "should be a list of addresses"),
        (tf_config({"worker": ["host1"]}), "'host1' is no address"),
        (tf_config({"worker": ["grpc://host1:2222"]}), "is no address"),
        (tf_config({"worker": [2222]}), "2222 is no address"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a:1 is there twice"),
        (tf_config({"chief": ["a:1", "b:1"], **TWO}), "there are 2 chiefs"),
        (tf_config(TWO, role="chief"), "type 'chief' is not in the cluster"),
        (tf_config(TWO, index=2), "index 2 is none of 0 to 1"),
        (tf_config(TWO, index=-1), "index -1 is none of 0 to 1"),
        (tf_config(TWO, index="first"), "index 'first' is none of 0 to 1"),
        (tf_config(TWO, index=None), "index None is none of 0 to 1"),
    ],
)
def test_every_wrong_tf_config_is_refused_before_tensorflow_sees_it(
    text, reason, monkeypatch
):
    monkeypatch.setenv("TF_CONFIG", text)
    with (
        flagsaver.as_parsed(strategy="multi_worker"),
        pytest.raises(UserError, match="TF_CONFIG") as error,
    ):
        worker_count_from_flags()
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (tf_config(TWO), 2),
        (tf_config(TWO, index="1"), 2),
        (tf_config({"chief": ["[::1]:2222"], **TWO}, role="chief"), 3),
    ],
)
def test_the_workers_of_a_tf_config_are_counted(text, count, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    assert worker_count_from_flags() == count
