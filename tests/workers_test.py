"""Two workers on this machine: the numbers of one, any signal, any lost worker."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.soak import free_ports, worker_environment

FLAGS = [
    "--dataset=digits",
    "--method=dml",
    "--peers=resnet8,resnet8",
    # An odd number: the workers' parts differ in size.
    "--batch_size=127",
    "--epochs=2",
]


def start(run_dir, ports, number):
    return subprocess.Popen(
        [sys.executable, "-m", "afd_tf.train", *FLAGS, f"--run_dir={run_dir}"],
        env=worker_environment(ports, number),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    ports = free_ports(2)
    ends = finish([start(run_dir, ports, number) for number in (0, 1)])
    return run_dir, ends


def test_the_chief_writes_and_reports_alone(undisturbed):
    run_dir, ((chief_out, _), (worker_out, _)) = undisturbed
    summary = json.loads((run_dir / "summary.json").read_text())
    assert json.loads(chief_out.splitlines()[-1]) == summary
    assert worker_out == ""
    assert summary["ensemble_accuracy"] > 0.5
    assert [line["epoch"] for line in lines(run_dir)] == [1, 2]


def test_two_workers_are_one_process(undisturbed, tmp_path):
    run_dir, _ = undisturbed
    # One replica, the same batches; the first epoch, before rounding errors grow.
    subprocess.run(
        [
            *(sys.executable, "-m", "afd_tf.train", *FLAGS, "--epochs=1"),
            # The schedule of the longer run has no drop in its first epoch either.
            *("--learning_rate_drops=1", f"--run_dir={tmp_path / 'one'}"),
        ],
        capture_output=True,
        check=True,
    )
    (alone,) = lines(tmp_path / "one")
    together = lines(run_dir)[0]
    for peer in (0, 1):
        for name in ("loss_logit", "loss_cross_entropy"):
            key = f"train/peer_{peer}/{name}"
            np.testing.assert_allclose(together[key], alone[key], rtol=0.05)


def test_a_signal_to_one_saves_and_ends_all_and_a_lost_worker_comes_back(
    undisturbed, tmp_path
):
    run_dir, ports = tmp_path / "disturbed", free_ports(2)
    processes = [start(run_dir, ports, number) for number in (0, 1)]
    wait_for(processes[1], "first step finished")
    processes[1].send_signal(signal.SIGTERM)
    for _, stderr in finish(processes):
        assert "The same command goes on from there." in stderr
    # The other worker is killed; who is left waits for it.
    processes = [start(run_dir, ports, number) for number in (0, 1)]
    wait_for(processes[1], "first step finished")
    processes[1].kill()
    processes[1].communicate()
    wait_for(processes[0], "another worker was lost")
    processes[1] = start(run_dir, ports, 1)
    finish(processes)
    assert lines(run_dir) == lines(undisturbed[0])


@pytest.mark.parametrize("text", ["no JSON", '{"cluster": {}}', '{"task": 3}'])
def test_a_wrong_tf_config_is_one_line(text, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "afd_tf.train", f"--run_dir={tmp_path / 'run'}"],
        env={**os.environ, "TF_CONFIG": text},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    assert "should say who the workers are" in line
    assert "Traceback" not in result.stderr
