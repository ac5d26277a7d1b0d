import json
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import data, export
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.base.errors import UserError
from tests import exports


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "afd_tf.export", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_prints_one_object_and_nothing_else(tmp_path):
    cache = f"--cache_dir={tmp_path / 'cache'}"
    dataset = data.load("digits", cache_dir=str(tmp_path / "cache"))
    peers = exports.write_run(tmp_path / "run", dataset.info)
    result = command(
        f"--run_dir={tmp_path / 'run'}",
        f"--export_dir={tmp_path / 'x'}",
        "--formats=saved_model,tflite,tflite_int8",
        "--calibration_examples=20",
        # Nothing that was learned can be lost.
        "--max_accuracy_drop=1",
        cache,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    answer = json.loads(result.stdout)
    assert answer["directory"] == str(tmp_path / "x" / "1")
    assert answer["name"] == "wrn_10_1"
    for format_name in ("saved_model", "tflite", "tflite_int8"):
        assert answer["formats"][format_name]["examples"] == 360
    assert answer["formats"]["tflite_int8"]["calibration"]["count"] == 20
    images = exports.random_images((8, 8, 1), 3)
    for name in ("", "model.tflite"):
        exports.assert_same_scores(
            load_classifier(tmp_path / "x" / "1" / name).logits(images),
            exports.logits_of(peers[1], images),
        )


def test_no_run_directory_is_one_line():
    result = command("--run_dir=/nowhere")
    assert (result.returncode, result.stdout) == (1, "")
    # TensorFlow may have said something while it was imported.
    assert result.stderr.splitlines()[-1].startswith("error: /nowhere is no run")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "--run_dir and --artifact are not given.*--run_dir=runs/digits"),
        (["--run_dir=x", "--artifact=y"], "are both given"),
        (["--run_dir=x", "y"], "'y' is not a flag"),
    ],
)
def test_run_dir_or_artifact_must_be_given(extra, message):
    with flagsaver.flagsaver():
        left = flags.FLAGS(["export", *extra])
        with pytest.raises(UserError, match=message):
            export.main(left)
