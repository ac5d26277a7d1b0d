"""The flags that identify a run are decided by the module that defines them."""

from absl import flags

from afd_tf import train
from afd_tf.base.run_flags import identifying_names, operational_names, resolved_flags


def test_flags_of_the_four_packages_identify_a_run_unless_they_are_operational():
    assert train.main  # its flags are defined
    by_module = flags.FLAGS.flags_by_module_dict()
    identifying = identifying_names()
    # Part of what a run is; from each of the packages.
    assert identifying >= {
        "dataset",
        "image_size",
        "peers",
        "own_stages",
        "method",
        "afd_weight_decay",
        "teacher",
        "learning_rate",
        "accumulate",
        "epochs",
        "batch_size",
        "seed",
        "precision",
    }
    # Where and how it is carried out, and what is done with it.
    others = {
        "run_dir",
        "data_dir",
        "cache_dir",
        "download",
        "strategy",
        "save_minutes",
        "on_nan",
        "max_restores",
        "checkpoint",
        "report",
        "export_dir",
        "formats",
        "max_accuracy_drop",
        "calibration_examples",
        "peer",
        "top_k",
        "skip_bad_images",
        "memory_gibibytes",
        "cache_gigabytes",
        "changed_data",
    }
    assert identifying.isdisjoint(others)
    assert operational_names() <= others
    packages = ("afd_tf.data", "afd_tf.models", "afd_tf.distill", "afd_tf.training")
    for module, found in by_module.items():
        if not module.startswith(packages):
            assert identifying.isdisjoint(flag.name for flag in found), module


def test_resolved_flags_are_this_projects_as_text(parsed_flags):
    parsed_flags.peers = ["resnet8", "resnet14"]
    parsed_flags.nesterov = True
    values = resolved_flags()
    assert values["peers"] == "resnet8,resnet14"
    assert values["nesterov"] == "true"
    assert values["weight_decay"] == "0.0001"
    # Neither absl's own, nor those without a value.
    assert "verbosity" not in values
    assert "image_size" not in values
    assert "teacher" not in values
