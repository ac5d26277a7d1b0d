"""The text of the tables, letter by letter."""

import pytest

from afd_tf.analysis import table_text
from afd_tf.analysis.finished_runs import find_runs
from afd_tf.analysis.intervals import Difference
from afd_tf.analysis.tables import build_tables
from tests.analysis import logs

SEVERAL = """\
digits, resnet20, resnet8: test accuracy in % after the last epoch, mean ± sample
standard deviation over the seeds. Bold: the best of a column, where the 95 % interval
of its difference from `independent`, paired by seed, excludes 0.

| method | resnet8 | resnet20 | mean | ensemble | seeds | epochs | time of a run |
|---|---|---|---|---|---|---|---|
| `independent` | 60.50 ± 0.71 | 71.00 ± 1.41 | 65.75 ± 1.06 | 72.50 ± 2.12 | 2 | 2 | 90 s |
| `afd --afd_decay_only` | **64.50 ± 0.71** | 69.50 ± 2.12 | 67.00 ± 1.41 | 72.50 ± 3.54 | 2 | 2 | 1.0 h |

Difference from `independent` in points, paired by seed: mean over the seeds that both
have, its 95 % interval (Student's t), and a word where that includes 0.

| method | resnet8 | resnet20 | mean | ensemble | common seeds |
|---|---|---|---|---|---|
| `afd --afd_decay_only` | +4.00 [+4.00, +4.00] | −1.50 [−7.85, +4.85] includes 0 | +1.25 [−1.93, +4.43] includes 0 | 0.00 [−12.71, +12.71] includes 0 | 2 |
"""  # noqa: E501, RUF001


def test_a_table_of_several_seeds(tmp_path):
    for seed, values in enumerate([(0.7, 0.6, 0.65, 0.71), (0.72, 0.61, 0.665, 0.74)]):
        directory = tmp_path / f"independent{seed}"
        flags = {"method": "independent", "seed": seed}
        logs.write(directory, values, seconds=80.0 + 20 * seed, **flags)
    for seed, values in enumerate([(0.68, 0.64, 0.66, 0.70), (0.71, 0.65, 0.68, 0.75)]):
        flags = {"afd_decay_only": "true", "seed": seed}
        logs.write(tmp_path / f"afd{seed}", values, seconds=3600.0, **flags)
    tables = build_tables(find_runs([tmp_path]).finished)
    text = table_text.markdown(tables)
    assert text == SEVERAL.replace("1.0 h", "60.0 min")


def test_one_seed_says_that_there_is_no_interval(tmp_path):
    logs.write(tmp_path / "a", method="independent")
    logs.write(tmp_path / "b", (0.5, 0.5, 0.5, 0.5), epochs=2)
    tables = build_tables(find_runs([tmp_path]).finished)
    text = table_text.markdown(tables)
    assert "after the last epoch, one seed." in text
    assert "without an interval, which takes two seeds" in text.replace("\n", " ")
    assert "| `afd` | +10.00 | 0.00 | +5.00 | \u22125.00 | 1 |" in text
    assert "**" not in text and "±" not in text


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference([]), "no common seed"),
        (Difference([1], -0.00001), "0.00"),
        (Difference([1, 2], 0.01, -0.01, 0.03), "+1.00 [\u22121.00, +3.00] includes 0"),
        (
            Difference([1, 2], -0.02, -0.03, -0.01),
            "\u22122.00 [\u22123.00, \u22121.00]",
        ),
    ],
)
def test_differences(difference, text):
    assert table_text.difference_text(difference) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7.4, "7 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7199, "120.0 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations(seconds, text):
    assert table_text.duration(seconds) == text


def test_bars_in_names_do_not_break_a_table(tmp_path):
    logs.write(tmp_path / "a", method="kd", teacher="runs/a|b")
    text = table_text.markdown(build_tables(find_runs([tmp_path]).finished))
    assert r"| `kd --temperature=3.0 --teacher=runs/a\|b`" in text.replace(
        "--teacher=runs/a\\|b --temperature=3.0",
        "--temperature=3.0 --teacher=runs/a\\|b",
    )
