"""Two steps on 2 and 4 replicas and on 2 workers are those of one replica, to 1e-5."""

import os
import subprocess
import sys

import numpy as np
import pytest

from afd_tf.benchmarks.communication import free_addresses, tf_config
from tests.distill import same_step

TOLERANCE = 1e-5
# hardware_test.py tries AFD.
XLA_CASE = "kd_2"
# Replicas of all processes, by the name of the process.
TOGETHER = {"mirrored_2": 2, "mirrored_4": 4, "worker_0": 2, "worker_1": 2}
# What is tried on them: peers whose maps are alike on two replicas of one process, and
# those whose maps have to be brought to one on four, and on two workers.
TRIED = {
    "mirrored_2": [*same_step.ALIKE, same_step.IN_PARTS],
    "mirrored_4": ["afd_3", "kd_3"],
    "worker_0": [*same_step.UNLIKE, same_step.IN_PARTS],
    "worker_1": [*same_step.UNLIKE, same_step.IN_PARTS],
}
OVERFLOWING = ("one", "mirrored_2", "worker_0", "worker_1")


def start(directory, name, *flag_values, **environment):
    with (directory / f"{name}.stderr").open("w") as stderr:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", same_step.__name__),
                *(str(directory / f"{name}.npz"), *flag_values),
            ],
            env={**os.environ, **environment},
            stderr=stderr,
        )


def tried(name):
    overflow = [same_step.OVERFLOW] if name in OVERFLOWING else []
    return f"--cases={','.join([*TRIED[name], *overflow])}"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found, by its name."""
    directory = tmp_path_factory.mktemp("same_step")
    processes = {"one": start(directory, "one", "--strategy=one")}
    for replicas in (2, 4):
        name = f"mirrored_{replicas}"
        flag_values = ("--strategy=mirrored", f"--replicas={replicas}")
        processes[name] = start(directory, name, *flag_values, tried(name))
    # What XLA compiles between the exchanges of replicas; on CPUs it has to be told to.
    processes["xla"] = start(
        directory,
        "xla",
        *(
            "--strategy=mirrored",
            "--replicas=2",
            "--jit_compile",
            f"--cases={XLA_CASE}",
        ),
        TF_XLA_FLAGS="--tf_xla_cpu_global_jit",
        TF_CPP_MIN_LOG_LEVEL="0",  # says that it has compiled
    )
    addresses = free_addresses(2)
    for number in (0, 1):
        name = f"worker_{number}"
        environment = tf_config(addresses, number)
        processes[name] = start(directory, name, tried(name), **environment)
    try:
        for name, process in processes.items():
            code = process.wait(timeout=600)
            assert code == 0, (directory / f"{name}.stderr").read_text()[-3000:]
    finally:
        for process in processes.values():
            process.kill()
    compiled = "Compiled cluster using XLA" in (directory / "xla.stderr").read_text()
    return {
        **{name: dict(np.load(directory / f"{name}.npz")) for name in processes},
        "xla_compiled": compiled,
    }


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in TOGETHER for case in TRIED[name]]
)
def test_all_that_steps_leave_is_that_of_one_replica(found, name, case):
    one, other = found["one"], found[name]
    assert (one["replicas"], other["replicas"]) == (1, TOGETHER[name])
    assert_the_same(one, other, case)


def test_what_xla_compiles_between_exchanges_is_the_same(found):
    assert found["xla_compiled"]
    assert found["xla"]["replicas"] == 2
    assert_the_same(found["one"], found["xla"], XLA_CASE)


def assert_the_same(one, other, case):
    keys = [key for key in one if key.startswith(f"{case}/")]
    assert keys == [key for key in other if key.startswith(f"{case}/")]
    for key in keys:
        # Each replica has a copy.
        expected = np.broadcast_to(one[key], other[key].shape)
        # Moments are gradients and their squares: next to many, 1e-5 is much.
        scale = np.abs(expected).max() if "/optimizer/" in key else 1.0
        np.testing.assert_allclose(
            other[key],
            expected,
            rtol=TOLERANCE,
            atol=TOLERANCE * scale,
            err_msg=key,
        )


@pytest.mark.parametrize("name", TOGETHER)
def test_accuracies_are_those_of_one_replica(found, name):
    accuracies = {key: x for key, x in found[name].items() if "/test/" in key}
    # Plain and balanced, of each peer, their mean and their ensemble.
    counts = {"afd_2": 4, "afd_3": 5}
    assert len(accuracies) == 2 * sum(counts.get(case, 0) for case in TRIED[name])
    assert accuracies == {key: found["one"][key] for key in accuracies}


@pytest.mark.parametrize("name", OVERFLOWING)
def test_an_overflow_on_one_replica_costs_its_optimizer_a_step_on_all(found, name):
    prefix = f"{same_step.OVERFLOW}/"
    state = {key: x for key, x in found[name].items() if key.startswith(prefix)}
    scales = {key: x for key, x in state.items() if key.endswith("/scale")}
    assert len(scales) == 6
    for key, copies in scales.items():
        hurt = "peer_0/logit" in key
        np.testing.assert_array_equal(copies, 2.0**14 if hurt else 2.0**15, key)
    assert not state[f"{prefix}optimizer/peer_0/logit/momentum"].any()
    assert state[f"{prefix}optimizer/peer_1/logit/momentum"].any()
    for key, copies in state.items():
        assert np.isfinite(copies).all(), key
        assert (copies == copies[:1]).all(), key


def test_both_steps_move_all_that_is_trained_by_more_than_that(found):
    before, after = (f"/{step}/trainable/" for step in same_step.STEPS)
    keys = [key for key in found["one"] if before in key]
    assert len(keys) > 5 * len(same_step.CASES)
    for key in keys:
        moved = found["one"][key.replace(before, after)] - found["one"][key]
        assert np.abs(moved).max() > 10 * TOLERANCE, key
