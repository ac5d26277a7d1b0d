"""Tables of made-up runs: what belongs together, means, differences, what is bold."""

import numpy as np
import pytest
from scipy import stats

from afd_tf.analysis.finished_runs import find_runs
from afd_tf.analysis.tables import as_json, build_tables
from afd_tf.base.errors import UserError
from tests.analysis import logs

# Test accuracies of resnet20, resnet8, mean and ensemble by method and seed.
ACCURACIES = {
    "independent": [(0.70, 0.60, 0.65, 0.71), (0.72, 0.61, 0.665, 0.74)],
    "afd": [(0.68, 0.64, 0.66, 0.70), (0.71, 0.65, 0.68, 0.75)],
}


def write(tmp_path, accuracies=ACCURACIES, **flags) -> None:
    for method, by_seed in accuracies.items():
        for seed, values in enumerate(by_seed):
            directory = tmp_path / f"{method}_{seed}"
            logs.write(directory, values, method=method, seed=seed, **flags)


def tables(tmp_path, **settings):
    return build_tables(find_runs([tmp_path]).finished, **settings)


def one_column(method_values, **settings):
    """Returns the row that is bold where all columns have the same values."""

    def bold(tmp_path):
        write(
            tmp_path,
            {
                method: [(value,) * 4 for value in values]
                for method, values in method_values.items()
            },
        )
        (table,) = tables(tmp_path, **settings)
        best = [table.best(column) for column in table.columns]
        (label,) = {row and row.label for row in best}
        return label

    return bold


def test_means_deviations_and_paired_differences(tmp_path):
    write(tmp_path)
    (table,) = tables(tmp_path)
    assert [column.key for column in table.columns] == [
        "peer_1",  # the small one first
        "peer_0",
        "mean",
        "ensemble",
    ]
    assert table.baselines == ["independent"]
    assert [row.label for row in table.rows] == ["independent", "afd"]
    found = as_json(table)["rows"][1]
    assert (found["seeds"], found["epochs"], found["seconds"]) == (
        [0, 1],
        [2, 2],
        [60.0, 60.0],
    )
    small = found["accuracy"]["peer_1"]
    assert (small["title"], small["values"]) == ("resnet8", [0.64, 0.65])
    assert small["mean"] == pytest.approx(0.645)
    assert small["standard_deviation"] == pytest.approx(np.std([0.64, 0.65], ddof=1))
    difference = found["differences"]["independent"]["peer_1"]
    assert (difference["low"], difference["high"]) == pytest.approx((0.04, 0.04))
    assert difference["includes_zero"] is False
    test = stats.ttest_rel([0.68, 0.71], [0.70, 0.72])
    interval = test.confidence_interval(0.95)
    difference = found["differences"]["independent"]["peer_0"]
    assert (difference["low"], difference["high"]) == pytest.approx(
        (interval.low, interval.high)
    )
    assert difference["includes_zero"] is True
    assert as_json(table)["rows"][0]["differences"] == {}


def test_rows_are_in_the_order_of_the_runs_and_baselines_first(tmp_path):
    write(tmp_path / "b", {"one": ACCURACIES["afd"]})
    write(tmp_path / "a", {"dml": ACCURACIES["afd"], "afd": ACCURACIES["afd"]})
    runs = find_runs([tmp_path / "b", tmp_path]).finished
    (table,) = build_tables(runs)
    assert [row.label for row in table.rows] == ["one", "afd", "dml"]
    # No row is called independent.
    assert table.baselines == []
    (table,) = build_tables(runs, baselines=["dml"])
    assert [row.label for row in table.rows] == ["dml", "one", "afd"]


def test_bold_is_the_best_where_the_interval_excludes_zero(tmp_path):
    steady = [0.60, 0.62, 0.61]
    better = [value + 0.01 + 0.001 * n for n, value in enumerate(steady)]
    noisy = [0.55, 0.70, 0.66]
    rows = {"independent": steady, "afd": better, "dml": [0.5, 0.5, 0.5]}
    assert one_column(rows)(tmp_path / "clear") == "afd"
    rows = {"independent": steady, "afd": noisy}
    assert one_column(rows)(tmp_path / "noisy") is None
    # Against another baseline the same row may be clear.
    rows = {"dml": [0.2, 0.3, 0.4], "afd": [0.3, 0.41, 0.5], "kd": [0.1, 0.9, 0.6]}
    assert one_column(rows, baselines=["dml"])(tmp_path / "other") is None
    assert one_column({"dml": rows["dml"], "afd": rows["afd"]}, baselines=["dml"])(
        tmp_path / "clear_again"
    ) == ("afd")


def test_a_baseline_is_bold_only_against_every_other_row(tmp_path):
    best = [0.80, 0.82, 0.81]
    worse = [value - 0.01 - 0.001 * n for n, value in enumerate(best)]
    noisy = [0.6, 0.9, 0.8]
    assert one_column({"independent": best, "afd": worse})(tmp_path / "a") == (
        "independent"
    )
    rows = {"independent": best, "afd": worse, "dml": noisy}
    assert one_column(rows)(tmp_path / "b") is None


@pytest.mark.parametrize(
    "rows",
    [
        {"independent": [0.5], "afd": [0.9]},  # no interval
        {"dml": [0.5, 0.5], "afd": [0.9, 0.9]},  # no baseline
        {"independent": [0.5, 0.5], "afd": [0.9, 0.9], "dml": [0.9, 0.9]},  # two best
        {"independent": [0.5, 0.6]},  # nothing to compare
    ],
)
def test_nothing_is_bold_without_a_reason(rows, tmp_path):
    assert one_column(rows)(tmp_path) is None


def test_runs_that_do_not_belong_together_are_refused_or_grouped(tmp_path):
    write(tmp_path / "short")
    write(tmp_path / "long", epochs=5, learning_rate=0.3)
    with pytest.raises(UserError) as error:
        tables(tmp_path)
    message = str(error.value)
    assert "--epochs is 5 in " in message and ", 2 in " in message
    # One that the older runs do not have is at its default there.
    assert "--learning_rate is 0.3 in " in message and ", 0.1 in " in message
    assert f"{tmp_path}/long/afd_0" in message and " and 2 more" in message
    assert "--group_by=epochs,learning_rate for a table of each" in message
    assert "temperature" not in message and "data_dir" not in message
    found = tables(tmp_path, group_by=["epochs", "learning_rate"])
    assert [table.group for table in found] == [
        {"epochs": "5", "learning_rate": "0.3"},
        {"epochs": "2", "learning_rate": "0.1"},
    ]
    assert found[0].title.endswith("resnet8, --epochs=5, --learning_rate=0.3")
    assert "--rows_by=epochs,learning_rate for a row of each" in message
    (found,) = tables(tmp_path, rows_by=["learning_rate", "epochs"])
    assert {row.label for row in found.rows if "afd" in row.label} == {
        "afd --epochs=2",
        "afd --epochs=5 --learning_rate=0.3",
    }
    write(tmp_path / "other", epochs=2, learning_rate=0.2)
    with pytest.raises(UserError, match=r"--learning_rate is .*group_by=epochs,lear"):
        tables(tmp_path, group_by=["epochs"])
    with pytest.raises(
        UserError, match=r"unknown flag of --group_by 'epoch'.*'epochs'"
    ):
        tables(tmp_path, group_by=["epoch"])


def test_peers_make_tables_and_a_grouped_flag_leaves_the_label(tmp_path):
    write(tmp_path / "a", {"afd": ACCURACIES["afd"]}, temperature=4.0)
    write(tmp_path / "b", {"afd": ACCURACIES["afd"]}, peers="resnet8,resnet32")
    write(tmp_path / "c", {"afd": [(0.5, 0.5, 0.5)]}, peers="resnet8")
    found = tables(tmp_path)
    assert [[row.label for row in table.rows] for table in found] == [
        ["afd --temperature=4.0"],
        ["afd"],
        ["afd"],
    ]
    # A peer alone has neither a mean nor an ensemble.
    assert [column.title for column in found[2].columns] == ["resnet8"]
    (first, *_) = tables(tmp_path, group_by=["temperature"])
    assert (first.rows[0].label, first.group) == ("afd", {"temperature": "4.0"})


def test_twins_are_numbered_and_seeds_count_once(tmp_path):
    write(tmp_path / "a", {"afd": ACCURACIES["afd"]}, peers="resnet8,resnet8")
    (table,) = tables(tmp_path)
    titles = [column.title for column in table.columns]
    assert titles == ["resnet8 (peer 0)", "resnet8 (peer 1)", "mean", "ensemble"]
    write(tmp_path / "b", {"afd": ACCURACIES["afd"]}, peers="resnet8,resnet8")
    with pytest.raises(UserError, match=r"a/afd_0 and .*b/afd_0 are both afd with --s"):
        tables(tmp_path)


def test_baselines_are_labels_or_methods_with_one_row(tmp_path):
    write(tmp_path / "a", {"afd": ACCURACIES["afd"]}, temperature=4.0)
    write(tmp_path / "b", ACCURACIES)
    (table,) = tables(tmp_path, baselines=["afd --temperature=4.0", "afd"])
    assert table.baselines == ["afd --temperature=4.0", "afd"]
    write(tmp_path / "c", {"dml": ACCURACIES["afd"]}, temperature=5.0)
    (table,) = tables(tmp_path, baselines=["dml"])
    assert table.baselines == ["dml --temperature=5.0"]
    assert table.rows[0].label == "dml --temperature=5.0"
    write(tmp_path / "d", {"dml": ACCURACIES["afd"]}, temperature=6.0)
    with pytest.raises(UserError, match=r"may be 'dml --temperature=5.0', 'dml --temp"):
        tables(tmp_path, baselines=["dml"])
    with pytest.raises(
        UserError, match=r"unknown baseline 'indepndent'.*'independent'"
    ):
        tables(tmp_path, baselines=["indepndent"])
