"""The order of the tests and the processes that share them; see fixtures.py."""

import gc
import os

import pytest

# Until all tests are collected, nothing is garbage.
gc.disable()

# The files that take longest, longest first: begun last, one of them would keep one
# process busy while the others have nothing left to do.
LONGEST = (
    "same_step_test.py",
    "models_test.py",
    "train_test.py",
    "tflite_test.py",
    "replicas_test.py",
    "workers_test.py",
    "exporter_test.py",
    "api_test.py",
    "benchmark_test.py",
    "readers_test.py",
    "web_test.py",
    "flags_test.py",
    "afd_test.py",
    "keras_peer_test.py",
    "saved_model_test.py",
    "hardware_test.py",
    "analyze_test.py",
    "communication_test.py",
    "inference_worker_test.py",
    "packaging_test.py",
    "methods_test.py",
    "tfds_source_test.py",
    "serving_test.py",
    "quantization_test.py",
    "study_test.py",
    "training_worker_test.py",
    "keras_graph_copy_test.py",
    "dataset_test.py",
    "notebooks_test.py",
    "launching_test.py",
    "device_test.py",
    "teacher_test.py",
    "pretrained_test.py",
    "checkpoints_test.py",
    "fitting_test.py",
    "method_test.py",
    "export_test.py",
    "folder_source_test.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two more than cores: many tests wait for the processes that they start."""
    return (os.cpu_count() or 1) + 2


def pytest_configure(config):
    # The process that only hands out tests to others does without TensorFlow.
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
