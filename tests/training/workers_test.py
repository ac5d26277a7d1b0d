"""Two workers on this machine: the numbers of one, any signal, any lost worker."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from afd_tf.benchmarks.communication import free_addresses, tf_config
from tests import poisoned, small_train

FLAGS = [
    "--dataset=digits",
    "--method=dml",
    # A smaller network than any that the command knows: less to trace.
    "--peers=small,small",
    # An odd number: the workers' parts differ in size.
    "--batch_size=127",
    "--epochs=2",
]


def start(run_dir, addresses, number, *more, **program):
    return small_train.Training(
        [*FLAGS, f"--run_dir={run_dir}", *more],
        environment=tf_config(addresses, number),
        **program,
    )


def wait_for(process, text):
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(said[-3000:])


def finish(processes):
    """Returns what each says at last; all have to end well."""
    ends = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, ends, strict=True):
        assert process.returncode == 0, stderr[-3000:]
    return ends


def lines(run_dir):
    return [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("workers") / "undisturbed"
    addresses = free_addresses(2)
    ends = finish([start(run_dir, addresses, number) for number in (0, 1)])
    return run_dir, ends


def test_the_chief_writes_and_reports_alone(undisturbed):
    run_dir, ((chief_out, _), (worker_out, _)) = undisturbed
    summary = json.loads((run_dir / "summary.json").read_text())
    assert json.loads(chief_out.splitlines()[-1]) == summary
    assert worker_out == ""
    # A run that learned nothing would be at 0.1.
    assert summary["ensemble_accuracy"] > 0.5
    assert [line["epoch"] for line in lines(run_dir)] == [1, 2]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that a signal to one of its workers has ended."""
    run_dir = tmp_path_factory.mktemp("workers") / "stopped"
    addresses = free_addresses(2)
    processes = [start(run_dir, addresses, number) for number in (0, 1)]
    wait_for(processes[1], "first step finished")
    processes[1].send_signal(signal.SIGTERM)
    for _, stderr in finish(processes):
        assert "The same command goes on from there." in stderr
    assert not (run_dir / "summary.json").exists()
    return run_dir


def test_a_signal_to_one_saves_and_ends_all_and_a_lost_worker_comes_back(
    undisturbed, stopped, tmp_path
):
    run_dir, addresses = tmp_path / "disturbed", free_addresses(2)
    shutil.copytree(stopped, run_dir)
    processes = [start(run_dir, addresses, number) for number in (0, 1)]
    wait_for(processes[1], "first step finished")
    # The other worker is killed; who is left waits for it.
    processes[1].kill()
    processes[1].communicate()
    wait_for(processes[0], "another worker was lost")
    processes[1] = start(run_dir, addresses, 1)
    finish(processes)
    assert lines(run_dir) == lines(undisturbed[0])


def test_a_run_goes_on_with_another_number_of_replicas(undisturbed, stopped, tmp_path):
    run_dir = tmp_path / "smaller"
    shutil.copytree(stopped, run_dir)
    alone = small_train.run([*FLAGS, f"--run_dir={run_dir}"])
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert ", of 2 replica(s), on 1." in alone.stderr
    # The same images and steps; rounding errors have grown for two epochs.
    for mine, expected in zip(lines(run_dir), lines(undisturbed[0]), strict=True):
        assert mine["step"] == expected["step"]
        for peer in (0, 1):
            name = f"train/peer_{peer}/loss_logit"
            np.testing.assert_allclose(mine[name], expected[name], rtol=0.05)


def test_a_chief_that_cannot_write_ends_and_comes_back(undisturbed, tmp_path):
    run_dir, addresses = tmp_path / "full", free_addresses(2)
    processes = [start(run_dir, addresses, number) for number in (0, 1)]
    # What was there before is read; nothing is written yet.
    wait_for(processes[0], "on 2 replica(s)")
    (run_dir / "checkpoints").mkdir()
    last = f"step_{lines(undisturbed[0])[-1]['step']:09d}"
    obstacle = run_dir / "checkpoints" / last
    obstacle.touch()
    _, stderr = processes[0].communicate(timeout=300)
    assert processes[0].returncode == 1
    (message,) = [x for x in stderr.splitlines() if x.startswith("error:")]
    assert f"cannot write to {run_dir / 'checkpoints'}" in message
    assert "Traceback" not in stderr
    wait_for(processes[1], "another worker was lost")
    obstacle.unlink()
    processes[0] = start(run_dir, addresses, 0)
    (_, stderr), _ = finish(processes)
    assert f"continuing {run_dir} after step" in stderr
    assert lines(run_dir) == lines(undisturbed[0])


def test_who_waits_for_another_says_so_and_heeds_a_signal(tmp_path):
    run_dir = tmp_path / "waiting"
    # Each waits for the other one of its own pair.
    processes = [start(run_dir, free_addresses(2), number) for number in (0, 1)]
    for number, process in enumerate(processes):
        wait_for(process, f"waiting for worker {1 - number} (localhost:")
        process.send_signal(signal.SIGTERM)
    for _, stderr in finish(processes):
        assert stderr == "interrupted.\n"
    assert not run_dir.exists()


def test_what_is_not_finite_on_one_worker_takes_all_back(undisturbed, tmp_path):
    run_dir, addresses = tmp_path / "restored", free_addresses(2)
    step = lines(undisturbed[0])[0]["step"] + 3  # of the second epoch
    more = (f"--poisoned_steps={step}", "--on_nan=restore")
    processes = [
        start(run_dir, addresses, number, *more, program=poisoned.__name__)
        for number in (0, 1)
    ]
    for _, stderr in finish(processes):
        assert f"step {step + 1}: peer_0/loss_logit is nan" in stderr
        assert "skipping that batch" in stderr
    first, second = lines(run_dir)
    assert first == lines(undisturbed[0])[0]
    assert second["step"] == lines(undisturbed[0])[1]["step"]
    assert second != lines(undisturbed[0])[1]
    assert all(np.isfinite(value) for value in second.values())


def test_every_worker_refuses_a_checkpoint_of_another_version(undisturbed, tmp_path):
    run_dir = tmp_path / "older"
    shutil.copytree(undisturbed[0], run_dir)
    for path in (run_dir / "checkpoints").glob("*/state.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    addresses = free_addresses(2)
    processes = [start(run_dir, addresses, number) for number in (0, 1)]
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 1
        (message,) = [x for x in stderr.splitlines() if x.startswith("error:")]
        assert "was written by another version of afd_tf" in message


def test_a_wrong_tf_config_is_one_line(tmp_path):
    text = '{"cluster": {"worker": ["a:1"], "ps": ["b:2"]}}'

    result = subprocess.run(
        [sys.executable, "-m", "afd_tf.train", f"--run_dir={tmp_path / 'run'}"],
        env={**os.environ, "TF_CONFIG": text},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    assert "should give the addresses of all workers" in line
    assert "Traceback" not in result.stderr
