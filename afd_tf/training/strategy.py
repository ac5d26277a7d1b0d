"""The devices and machines of a run, and the batch that they share."""

import json
import os
import re
from typing import Any

import tensorflow as tf
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.base.run_flags import operational
from afd_tf.training import startup_barrier

# The kinds of processes of TF_CONFIG that take part in the training.
_ROLES = ("chief", "worker")
_ROLES_TEXT = "chief and worker"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/]+):[0-9]{1,5}")

STRATEGIES = ("auto", "one", "mirrored", "multi_worker")

_STRATEGY = operational(
    flags.DEFINE_string(
        "strategy",
        "auto",
        "The devices to train on: one is the first GPU, or the CPU; mirrored is all "
        "GPUs (or logical CPUs), with MirroredStrategy; multi_worker is the machines "
        "that TF_CONFIG names, with MultiWorkerMirroredStrategy; auto is multi_worker "
        "if TF_CONFIG is set, mirrored if there are several GPUs, and else one.",
    )
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    128,
    "Number of images in each training step, over all replicas.",
    lower_bound=1,
)


def strategy_from_flags() -> tf.distribute.Strategy:
    """Returns the strategy that --strategy names.

    Raises:
      UserError: the name is unknown, or the other machines cannot be reached.
    """
    name = _STRATEGY.value
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    if _is_multi_worker():
        startup_barrier.wait_for_all_workers(*_tf_config())
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _is_multi_worker() -> bool:
    automatic = _STRATEGY.value == "auto" and bool(os.environ.get("TF_CONFIG"))
    return automatic or _STRATEGY.value == "multi_worker"


def worker_count_from_flags() -> int:
    """Returns the number of processes that train together.

    Raises:
      UserError: TF_CONFIG, which should give it, is missing or malformed.
    """
    if not _is_multi_worker():
        return 1
    cluster, _ = _tf_config()
    return sum(map(len, cluster.values()))


def _tf_config() -> tuple[dict[str, list[str]], dict]:
    """Returns the cluster, and the task of this process in it."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        reason = _wrong_about(config)
    except ValueError:
        reason = "it is no JSON"
    if reason is None:
        return config["cluster"], config["task"]
    raise UserError(
        f"TF_CONFIG={text!r} cannot be used: {reason}. It should give the addresses of "
        "all workers and the place of this one, e.g. "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}; or give --strategy=one.'
    )


def _wrong_about(config: Any) -> str | None:
    """Returns the first fault of a TF_CONFIG, or None.

    Everything is checked before TensorFlow sees it, which may wait for ever for a
    process of a kind that this project does not run.
    """
    cluster = config.get("cluster") if isinstance(config, dict) else None
    task = config.get("task") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster:
        return "it has no cluster"
    if not isinstance(task, dict):
        return "it has no task"
    foreign = sorted(map(str, cluster.keys() - set(_ROLES)))
    if foreign:
        return f"the cluster has {', '.join(foreign)}, and only {_ROLES_TEXT} are run"
    addresses: list[str] = []
    for role, found in cluster.items():
        if not isinstance(found, list) or not found:
            return f"{role} should be a list of addresses, not {found!r}"
        for address in found:
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                return f"{address!r} is no address of the form host:port"
        addresses += found
    if len(cluster.get("chief", ())) > 1:
        return f"there are {len(cluster['chief'])} chiefs, and there can be one"
    twice = sorted({each for each in addresses if addresses.count(each) > 1})
    if twice:
        return f"{twice[0]} is there twice"
    role, index = task.get("type"), task.get("index")
    if role not in cluster:
        return f"the task's type {role!r} is not in the cluster"
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not isinstance(index, int) or not 0 <= index < len(cluster[role]):
        return f"the task's index {index!r} is none of 0 to {len(cluster[role]) - 1}"
    return None


def batch_size_from_flags(strategy: tf.distribute.Strategy) -> int:
    """Returns --batch_size, the number of images in a step over all replicas.

    Raises:
      UserError: it leaves a replica without images.
    """
    replicas = strategy.num_replicas_in_sync
    if _BATCH_SIZE.value < replicas:
        raise UserError(
            f"--batch_size={_BATCH_SIZE.value} is smaller than the {replicas} replicas "
            f"that share it: give at least {replicas}."
        )
    return _BATCH_SIZE.value
