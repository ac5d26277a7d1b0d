"""The train command: a run from end to end, stopped in every way, and refused.

Most of the runs are of a program that differs from the command in one thing: it knows
a network so small that a run takes few seconds.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf import data, train
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.artifacts.evaluation import predict_split
from afd_tf.base import command_line
from afd_tf.base.errors import UserError
from afd_tf.training.run_directory import read_flags
from tests import poisoned, small_train

EPOCHS = 3
# More of them make a longer experiment of the same test.
KILLS = int(os.environ.get("AFD_TF_TEST_KILLS", "2"))
SETTINGS = {
    "method": "afd",
    "peers": "small,small",
    "batch_size": "32",
    "learning_rate": "0.05",
    "validation_examples": "100",
}
FLAGS = [
    "--dataset=digits",
    f"--epochs={EPOCHS}",
    *(f"--{name}={value}" for name, value in SETTINGS.items()),
]


def start(run_dir, *more):
    return small_train.Training([*FLAGS, f"--run_dir={run_dir}", *more])


def run(run_dir, *more, **program):
    return small_train.run([*FLAGS, f"--run_dir={run_dir}", *more], **program)


def finish(run_dir, *more):
    result = run(run_dir, *more)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def command(*arguments):
    """Runs the command itself."""
    return subprocess.run(
        [sys.executable, "-m", "afd_tf.train", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    exports = f"--export_dir={run_dir.parent / 'exported'}", "--checkpoint=last"
    return run_dir, finish(run_dir, *exports, "--report")


def outcome(run_dir):
    """All that a run leaves, except times."""
    (*_, last) = sorted((run_dir / "checkpoints").glob("step_*"))
    state = json.loads((last / "state.json").read_text())
    metrics = (run_dir / "metrics.jsonl").read_text()
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in ("seconds", "images_per_second", "exported"):
        summary.pop(name, None)
    return (
        (last.name, state["files"], state["best_validation"]),
        metrics,
        summary,
    )


def test_a_run_leaves_all_it_should(undisturbed):
    run_dir, result = undisturbed
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary == json.loads((run_dir / "summary.json").read_text())
    lines = [
        json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]
    steps = -(-(1437 - 100) // 32)
    assert [(x["epoch"], x["step"]) for x in lines] == [
        (epoch, epoch * steps) for epoch in range(1, EPOCHS + 1)
    ]
    last = lines[-1]
    for peer in ("peer_0", "peer_1"):
        for name in (
            "loss_logit",
            "loss_cross_entropy",
            "loss_divergence",
            "loss_discriminator",
            "loss_feature",
            "gradient_norm_logit",
            "gradient_norm_discriminator",
            "gradient_norm_feature",
            "accuracy",
            "discriminator_accuracy",
            "discriminator_accuracy_real",
            "discriminator_accuracy_fake",
        ):
            assert np.isfinite(last[f"train/{peer}/{name}"])
    accuracies = [peer["accuracy"] for peer in summary["peers"]]
    assert accuracies == [last[f"test/peer_{k}/accuracy"] for k in (0, 1)]
    assert summary["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["mean_accuracy"] == last["test/mean/accuracy"]
    assert summary["ensemble_accuracy"] == last["test/ensemble/accuracy"]
    balanced = [peer["balanced_accuracy"] for peer in summary["peers"]]
    assert balanced == [last[f"test/peer_{k}/balanced_accuracy"] for k in (0, 1)]
    for name in ("mean", "ensemble"):
        expected = last[f"test/{name}/balanced_accuracy"]
        assert summary[f"{name}_balanced_accuracy"] == expected
    # A run that learned nothing would be at 0.1.
    assert min(accuracies) > 0.5
    # Accuracies are whole numbers of images.
    assert [round(a * 360) / 360 for a in accuracies] == pytest.approx(accuracies)
    best = summary["best_validation"]
    assert best["mean/accuracy"] == max(x["validation/mean/accuracy"] for x in lines)
    chosen = lines[best["epoch"] - 1]
    for name in ("peer_0", "peer_1", "mean", "ensemble"):
        key = f"{name}/balanced_accuracy"
        assert best[key] == chosen[f"validation/{key}"]
    assert list((run_dir / "tensorboard").iterdir())
    assert json.loads((run_dir / "environment.json").read_text())["tensorflow"]
    assert "first step finished" in result.stderr
    # The end of the run in words: accuracies, places, the next commands.
    ends = result.stderr[result.stderr.index("test accuracy after") :].splitlines()
    assert [line.split() for line in ends[1:4]] == [
        *(["small", f"{accuracy:.2%}"] for accuracy in accuracies),
        ["ensemble", f"{summary['ensemble_accuracy']:.2%}"],
    ]
    exported = summary["exported"]["directory"]
    for text in (
        f"run: {run_dir} (metrics.jsonl",
        f"export of small: {exported} (saved_model, tflite)",
        f"python -m afd_tf.predict --artifact={exported} IMAGE",
        f"python -m afd_tf.evaluate --artifact={exported}",
        f"tensorboard --logdir={run_dir}",
    ):
        assert text in "\n".join(ends)


def test_the_report_is_on_the_run(undisturbed):
    run_dir, result = undisturbed
    page = run_dir / "report" / "report.html"
    assert f"report: {page}\n" in result.stderr
    text = page.read_text()
    summary = json.loads((run_dir / "summary.json").read_text())
    for value in (summary["peers"][0]["accuracy"], summary["ensemble_accuracy"]):
        assert f"<td>{100 * value:.2f}</td>" in text
    for part in (
        "ECE",
        "Grad-CAM",
        "model.tflite",
        "--batch_size=32",
        "Gradient norms",
    ):
        assert part in text
    # Where a report is written is no part of a run.
    assert read_flags(run_dir)["report"] == "true"
    assert f"--epochs={EPOCHS} --seed=0" in text and "--report" not in text


def test_what_is_exported_is_what_was_trained(undisturbed):
    run_dir, _ = undisturbed
    summary = json.loads((run_dir / "summary.json").read_text())
    version = run_dir.parent / "exported" / "1"
    dataset = data.load("digits")
    batches = list(
        dataset.evaluation_batches("test", batch_size=360).as_numpy_iterator()
    )
    assert [len(batch["label"]) for batch in batches] == [360]
    predictions = []
    for path in (run_dir, version, version / "model.tflite"):
        classifier = load_classifier(path, checkpoint="last")
        found = predict_split(classifier, dataset)
        right = found.networks[0] == found.labels
        assert np.mean(right) == summary["peers"][0]["accuracy"]
        by_class = [np.mean(right[found.labels == label]) for label in range(10)]
        balanced = summary["peers"][0]["balanced_accuracy"]
        assert balanced == pytest.approx(np.mean(by_class))
        predictions.append(classifier.logits(batches[0]["image"]).argmax(axis=1))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    np.testing.assert_array_equal(predictions[0], predictions[2])
    formats = summary["exported"]["formats"]
    assert {formats[name]["accuracy"] for name in ("saved_model", "tflite")} == {
        summary["peers"][0]["accuracy"]
    }


def test_flags_of_a_run_repeat_it(undisturbed, tmp_path):
    run_dir, _ = undisturbed
    again = tmp_path / "again"
    flagfile = f"--flagfile={run_dir / 'flags.cfg'}"
    result = small_train.run([flagfile, f"--run_dir={again}", "--noreport"])
    assert result.returncode == 0, result.stderr[-3000:]
    # Two runs on one machine, bit for bit.
    assert outcome(again) == outcome(run_dir)
    assert read_flags(again) == read_flags(run_dir) | {"report": "false"}


def test_deterministic_runs_are_equal_bit_for_bit(tmp_path):
    flags = ("--deterministic", "--method=dml", "--epochs=1", "--batch_size=128")
    for name in ("one", "other"):
        finish(tmp_path / name, *flags)
    assert outcome(tmp_path / "one") == outcome(tmp_path / "other")


def test_stopped_by_signals_and_continued_ends_where_it_would_have(
    undisturbed, tmp_path
):
    run_dir = tmp_path / "stopped"
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        process = start(run_dir)
        for line in process.stderr:
            if "first step finished" in line:
                break
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == code, stderr[-3000:]
        assert "The same command goes on from there." in stderr
        assert stdout == ""
    result = finish(run_dir)
    assert "continuing" in result.stderr
    assert outcome(run_dir) == outcome(undisturbed[0])


def test_killed_at_random_moments_and_continued(undisturbed, tmp_path):
    run_dir = tmp_path / "killed"
    generator = random.Random(0)
    # Saves all the time, so that some kills fall into a save.
    often = "--save_minutes=0"
    for _ in range(KILLS):
        process = start(run_dir, often)
        for line in process.stderr:
            if "first step finished" in line:
                break
        time.sleep(generator.uniform(0, 1))
        process.kill()
        process.communicate()
    finish(run_dir, often)
    assert outcome(run_dir) == outcome(undisturbed[0])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB, and a function that remounts it with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    program = f"""
        mount -t tmpfs -o size=16m none {place} && echo mounted &&
        while read -r options; do
          mount -o remount,"$options" {place} && echo remounted
        done
    """
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", program]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare on the PATH")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout.readline() != "mounted\n":
            pytest.skip("nothing can be mounted here")

        def remount(options):
            print(options, file=process.stdin, flush=True)
            assert process.stdout.readline() == "remounted\n"

        yield Path(f"/proc/{process.pid}/root{place}"), remount
        process.stdin.close()


def test_a_full_and_a_read_only_disk_cost_nothing_that_was_saved(small_disk, tmp_path):
    disk, remount = small_disk
    flags = ("--method=dml", "--save_minutes=0", "--epochs=2")
    finish(tmp_path / "undisturbed", *flags)

    def fails(reason):
        (message,) = [x for x in stderr.splitlines() if x.startswith("error:")]
        assert message.startswith(f"error: cannot write to {disk / 'run'}")
        assert f"{reason}. Nothing that was there is lost" in message
        assert "Traceback" not in stderr
        assert process.returncode == 1

    process = start(disk / "run", *flags)
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    with (
        (disk / "filler").open("wb", buffering=0) as filler,
        pytest.raises(OSError, match="No space left"),
    ):
        while True:
            filler.write(bytes(4096))
    _, stderr = process.communicate(timeout=120)
    fails("No space left on device")
    (disk / "filler").unlink()
    before = sorted((disk / "run").rglob("*"))
    remount("ro")
    process = start(disk / "run", *flags)
    _, stderr = process.communicate(timeout=120)
    fails("Read-only file system")
    assert sorted((disk / "run").rglob("*")) == before
    remount("rw")
    assert "continuing" in finish(disk / "run", *flags).stderr
    assert outcome(disk / "run") == outcome(tmp_path / "undisturbed")


def test_a_warm_up_is_part_of_the_run_and_survives_a_stop(undisturbed, tmp_path):
    flags = [
        "--method=factor_transfer",
        "--peers=small",
        f"--teacher={undisturbed[0]}",
        "--factor_paraphraser_epochs=2",
        "--epochs=2",
    ]
    finish(tmp_path / "whole", *flags)
    lines = [
        json.loads(x)
        for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    prepared = ["train/teacher_0/loss_paraphraser" in line for line in lines]
    assert prepared == [True, True, False, False]
    assert ["test/peer_0/accuracy" in line for line in lines] == [
        False,
        False,
        True,
        True,
    ]
    assert (
        lines[1]["train/teacher_0/loss_paraphraser"]
        < (lines[0]["train/teacher_0/loss_paraphraser"])
    )
    # The frozen teacher is the one that was trained.
    assert lines[-1]["train/teacher_0/accuracy"] > 0.5
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (summary["epochs"], summary["preparation_epochs"]) == (2, 2)

    run_dir = tmp_path / "stopped"
    for wanted in ("first step finished", "epoch 2/4: warm-up"):
        process = start(run_dir, *flags)
        for line in process.stderr:
            if wanted in line:
                break
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr[-3000:]
    finish(run_dir, *flags)
    assert outcome(run_dir) == outcome(tmp_path / "whole")


def test_a_finished_run_is_only_reported_again(undisturbed, tmp_path):
    run_dir = tmp_path / "finished"
    shutil.copytree(undisturbed[0], run_dir)
    finish(run_dir)
    assert outcome(run_dir) == outcome(undisturbed[0])
    # More epochs alone extend it; nothing that was is done again.
    before = (run_dir / "metrics.jsonl").read_text()
    result = finish(run_dir, f"--epochs={EPOCHS + 1}")
    assert f"the run had --epochs={EPOCHS}, and has --epochs={EPOCHS + 1}" in (
        result.stderr
    )
    after = (run_dir / "metrics.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == EPOCHS + 1
    assert read_flags(run_dir)["epochs"] == str(EPOCHS + 1)
    # Fewer than it has trained for are refused.
    message = refused(run_dir=str(run_dir), **SETTINGS, epochs="2")
    assert f"has trained for {EPOCHS + 1} epochs, not 2: give --epochs=" in message


def test_a_run_whose_export_failed_is_not_at_its_end(undisturbed, tmp_path):
    run_dir = tmp_path / "unexported"
    shutil.copytree(undisturbed[0], run_dir)
    (run_dir / "summary.json").unlink()
    (tmp_path / "file").touch()
    result = run(run_dir, f"--export_dir={tmp_path / 'file' / 'new'}")
    assert result.returncode == 1, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert not (run_dir / "summary.json").exists()
    finish(run_dir)
    assert outcome(run_dir) == outcome(undisturbed[0])


def test_a_run_ends_where_validation_gains_nothing(tmp_path):
    run_dir = tmp_path / "patient"
    # Nothing is learned, so that the first epoch stays the best one.
    flags = ("--method=independent", "--peers=resnet8", "--learning_rate=0")
    flags += ("--patience=1", "--epochs=9", "--momentum=0")
    result = command(*FLAGS, f"--run_dir={run_dir}", *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["epochs"], summary["best_validation"]["epoch"]) == (2, 1)
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_loss_that_is_not_finite_stops_the_run(undisturbed, tmp_path):
    run_dir = tmp_path / "diverging"
    result = run(run_dir, "--learning_rate=1e20")
    assert result.returncode == 1
    (message,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    assert "step 2: " in message
    assert "peer_0/gradient_norm_logit is nan" in message
    assert "Traceback" not in result.stderr


def train_poisoned(run_dir, steps, *more):
    more = ("--method=dml", f"--poisoned_steps={steps}", *more)
    return run(run_dir, *more, program=poisoned.__name__)


def test_batches_that_are_not_finite_are_skipped(tmp_path):
    run_dir, steps = tmp_path / "restored", -(-(1437 - 100) // 32)
    # In the first epoch, before anything was trained, and in the second.
    bad = [1, steps + 5]
    result = train_poisoned(run_dir, f"1,{steps + 5}", "--on_nan=restore", "--epochs=2")
    assert result.returncode == 0, result.stderr[-3000:]
    for step, before in zip(bad, (0, steps), strict=True):
        assert f"step {step + 1}: peer_0/loss_logit is nan" in result.stderr
        going_back = f"Going back to step {before} and skipping that batch"
        assert going_back in result.stderr
    (*_, last) = sorted((run_dir / "checkpoints").glob("step_*"))
    state = json.loads((last / "state.json").read_text())
    assert (state["step"], state["skipped"]) == (2 * steps, bad)
    assert all(
        np.isfinite(value)
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        for value in json.loads(line).values()
    )


@pytest.mark.parametrize("more", [(), ("--on_nan=restore", "--max_restores=1")])
def test_batches_that_are_not_finite_stop_the_run(tmp_path, more):
    result = train_poisoned(tmp_path / "stopped", "1,2", *more)
    assert result.returncode == 1
    (message,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    assert message.startswith(f"error: step {3 if more else 2}: peer_0/loss_logit is")
    assert "The last good checkpoint is kept" in message


def refused(*more, **values):
    settings = {"peers": "resnet8,resnet8", "dataset": "digits", **values}
    with flagsaver.as_parsed(**settings), pytest.raises(UserError) as error:
        train.main(["train", *more])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "adf"}, "unknown method 'adf'. Did you mean 'afd'?"),
        ({"peers": "resnet8,resnt20"}, "Did you mean 'resnet20'?"),
        ({"peers": "resnet8"}, "needs two or more"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"topology": "cycle"}, "Did you mean 'cyclic'?"),
        ({"strategy": "mirror"}, "Did you mean 'mirrored'?"),
        ({"decay_mode": "decouple"}, "Did you mean 'decoupled'?"),
        ({"update_order": "sequence"}, "Did you mean 'sequential'?"),
        ({"learning_rate_drops": "150,225"}, "parts of the run"),
        ({"afd_learning_rate_drops": "half"}, "--afd_learning_rate_drops=half"),
        ({"image_size": "2"}, "2x2 are too small for resnet8"),
        ({"image_size": "4"}, "1x1 are too small for a discriminator"),
        ({"method": "kd"}, "give its run directory as --teacher"),
        ({"method": "kd", "teacher": "nowhere"}, "nowhere is no run directory"),
        ({"method": "one", "peers": "resnet8,resnet14"}, "peers of one kind"),
        ({"method": "dml", "own_stages": "1"}, "for --method=one"),
        ({"method": "one", "own_stages": "3"}, "less than 3"),
        ({"patience": "3"}, "by its accuracy on validation images"),
        ({"export_dir": "out", "checkpoint": "bst"}, "Did you mean 'best'?"),
        ({"export_dir": "out", "checkpoint": "best"}, "on validation images, and"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, values, message):
    run_dir = tmp_path / "run"
    assert message in refused(run_dir=str(run_dir), **values)
    assert not run_dir.exists()


def test_an_argument_that_is_no_flag_is_refused():
    assert "'epochs=3' is not a flag" in refused("epochs=3")


def test_another_runs_directory_is_refused(undisturbed):
    run_dir = undisturbed[0]
    before = outcome(run_dir)
    assert "--method was afd, is now dml" in refused(run_dir=str(run_dir), method="dml")
    assert outcome(run_dir) == before


def only_line(stderr, hint):
    (line,) = [x for x in stderr.splitlines() if x.startswith("error:")]
    assert hint in line
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("flag", "hint"), [("--epoch=3", "epochs"), ("--method=adf", "Did you mean 'afd'?")]
)
def test_mistakes_on_the_command_line_have_no_traceback(flag, hint):
    result = command(flag)
    assert result.returncode == 1
    only_line(result.stderr, hint)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("--augment=cifr", "Did you mean 'cifar'?"), ("--epochs=many", "many")],
)
def test_values_that_no_flag_takes_are_one_line(flag, hint, capfd):
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        command_line._parse(["train", flag])
    assert end.value.code == 1
    only_line(capfd.readouterr().err, hint)


def test_help_lists_this_projects_flags_by_module():
    result = command("--help")
    for text in (
        "--epochs",
        "afd_tf.data:",
        "--dataset",
        "afd_tf.distill.methods.dml:",
    ):
        assert text in result.stdout
    assert "--pdb" not in result.stdout
