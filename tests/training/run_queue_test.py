"""Runs in processes of their own: order, share of the cores, failures, ends."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

from afd_tf.training.run_queue import LOG, QueuedRun, RunQueue

# Stands for a training: it counts epochs up to its goal, one file for each, goes on
# where it was, ends well at SIGTERM, and notes the cores it has.
TRAINING = textwrap.dedent(
    """
    import json, os, pathlib, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory, epochs, seconds = pathlib.Path(sys.argv[1]), *map(float, sys.argv[2:])
    (directory / "cores.json").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    (directory / "growth").write_text(os.environ["TF_FORCE_GPU_ALLOW_GROWTH"])
    with (directory / "begun").open("a") as file:
        print(os.getpid(), time.monotonic(), file=file)
    while (done := len(list(directory.glob("epoch_*")))) < epochs:
        time.sleep(seconds)
        # Two processes at once would try to write the same one.
        (directory / f"epoch_{done}").open("x").close()
        print(f"epoch {done + 1}/{epochs:g}: fine", file=sys.stderr, flush=True)
    (directory / "summary.json").write_text("{}")
    """
)


def made_up(directory, name, *, epochs=2, seconds=0.01, script=TRAINING):
    run_dir = directory / name
    command = [sys.executable, "-c", script, str(run_dir), str(epochs), str(seconds)]
    return QueuedRun(name, run_dir, command)


def never():
    return False


def begun(run):
    return (run.directory / "begun").read_text().split()


def test_runs_begin_in_their_order_and_report_their_epochs(tmp_path, capfd):
    runs = [made_up(tmp_path, name) for name in ("b", "a", "c")]
    assert RunQueue(runs, 1).work(never) == []
    times = [float(begun(run)[1]) for run in runs]
    assert times == sorted(times)
    assert capfd.readouterr().err.splitlines() == [
        line
        for number, name in enumerate(("b", "a", "c"), start=1)
        for line in (
            f"{name}: begun.",
            f"{name}: epoch 1/2: fine",
            f"{name}: epoch 2/2: fine",
            f"{name}: done ({number} of 3).",
        )
    ]
    assert (runs[0].directory / LOG).read_text().count("\n") == 2
    assert (runs[0].directory / "growth").read_text() == "true"
    # All is done: nothing is begun again.
    assert RunQueue(runs, 1).work(never) == []
    assert len(begun(runs[0])) == 2
    assert capfd.readouterr().err == "3 of 3 runs are finished already.\n"


def test_runs_at_a_time_have_cores_of_their_own(tmp_path):
    runs = [made_up(tmp_path, str(number), seconds=0.2) for number in range(2)]
    before = os.sched_getaffinity(0)
    assert RunQueue(runs, 2).work(never) == []
    assert os.sched_getaffinity(0) == before
    cores = [
        set(json.loads((run.directory / "cores.json").read_text())) for run in runs
    ]
    if len(before) > 1:
        assert not cores[0] & cores[1]
    assert cores[0] | cores[1] == before


def test_a_run_that_fails_stops_no_other_one(tmp_path, capfd):
    failing = (
        "import sys; print('x', file=sys.stderr); sys.exit('error: it is too dark')"
    )
    runs = [
        made_up(tmp_path, "bad", script=failing),
        made_up(tmp_path, "good"),
    ]
    queue = RunQueue(runs, 1)
    assert queue.work(never) == [runs[0]]
    assert runs[1].is_finished
    err = capfd.readouterr().err
    log = runs[0].directory / LOG
    assert f"bad: failed. Exit code 1, {log}: error: it is too dark\n" in err
    # The next attempt reports its own end, not the first one's.
    runs[0] = made_up(tmp_path, "bad", script="raise SystemExit(3)")
    assert RunQueue(runs, 1).work(never) == [runs[0]]
    assert capfd.readouterr().err.endswith(f"bad: failed. Exit code 3, {log}: \n")


def test_stopping_lets_the_runs_save_and_the_next_queue_goes_on(tmp_path):
    runs = [made_up(tmp_path, "a", epochs=1000, seconds=0.01)]
    assert RunQueue(runs, 1).work(lambda: any(tmp_path.glob("a/epoch_*"))) == []
    count = len(list(tmp_path.glob("a/epoch_*")))
    assert 0 < count < 1000
    assert not runs[0].is_finished
    runs = [made_up(tmp_path, "a", epochs=count + 1)]
    assert RunQueue(runs, 1).work(never) == []
    assert len(list(tmp_path.glob("a/epoch_*"))) == count + 1


QUEUE = textwrap.dedent(
    """
    import pathlib, sys
    from tests.training.run_queue_test import made_up
    from afd_tf.training.run_queue import RunQueue
    directory = pathlib.Path(sys.argv[1])
    runs = [made_up(directory, name, epochs=5, seconds=0.1) for name in "abc"]
    RunQueue(runs, 2).work(lambda: False)
    """
)


def test_a_queue_that_is_killed_again_and_again_ends_as_undisturbed(tmp_path):
    moments = random.Random(0)
    command = [sys.executable, "-c", QUEUE, str(tmp_path)]
    for _ in range(5):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.05, 0.6))
        process.kill()
        process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for name in "abc":
        directory = tmp_path / name
        # No epoch was tried twice: that run would have ended with an error.
        assert "Error" not in (directory / LOG).read_text()
        epochs = sorted(path.name for path in directory.glob("epoch_*"))
        assert epochs == [f"epoch_{number}" for number in range(5)]
        assert (directory / "summary.json").exists()


def test_a_run_of_a_killed_queue_is_waited_for(tmp_path, capfd):
    run = made_up(tmp_path, "a", epochs=3, seconds=0.3)
    script = QUEUE.replace("epochs=5, seconds=0.1", "epochs=3, seconds=0.3")
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not (run.directory / "begun").exists() or not begun(run):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert RunQueue([run], 1).work(never) == []
    assert len(begun(run)) == 2, "a second process has begun the run"
    err = capfd.readouterr().err
    assert "a: another process trains it; waiting for that one.\n" in err
    assert err.endswith("a: done by another process.\n")
