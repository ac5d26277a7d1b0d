"""The page of made-up runs and of one with a checkpoint, in headless Chromium."""

import json
import re

import pytest

from afd_tf.analysis import curves, report
from tests import browser, exports
from tests.analysis import logs

PHONE = 390
EXPORTED = {
    "directory": "/models/a/1",
    "name": "resnet8",
    "formats": {
        "tflite": {
            "path": "model.tflite",
            "bytes": 12345,
            "accuracy": 0.5,
            "agreement": 0.75,
        },
        "tflite_int8": {"refused": True, "accuracy": 0.1, "agreement": 0.2},
    },
}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The page of three methods over seeds; one run was stopped."""
    directory = tmp_path_factory.mktemp("many")
    for seed in range(3):
        for number, method in enumerate(("independent", "dml", "afd")):
            values = [0.5 + 0.1 * number + 0.01 * seed**number] * 4
            exported = EXPORTED if (seed, method) == (0, "afd") else None
            name = directory / "runs" / f"{method}_{seed}_{'long_name_' * 9}"
            logs.write(name, values, method=method, seed=seed, exported=exported)
    long = {"teacher": "/a/path/" + 30 * "that_goes_on/"}
    logs.write(directory / "runs" / "x", method="kd", **long)
    (logs.write(directory / "runs" / "y", seed=9) / "summary.json").unlink()
    report.write_report([directory / "runs"], directory / "out")
    return directory / "out" / report.PAGE


@pytest.fixture(scope="module")
def one(digits, tmp_path_factory):
    """The page of one run with a checkpoint."""
    directory = tmp_path_factory.mktemp("one") / "run"
    exports.write_run(directory, digits.info)
    values = {"method": "independent", "peers": exports.RUN_FLAGS["peers"]}
    logs.write(directory, **values)
    report.write_report([directory], directory / "report", images=True)
    return directory / "report" / report.PAGE


@pytest.fixture(scope="module")
def driver():
    with browser.chromium() as driver:
        yield driver


def show(driver, path, scheme, width):
    """Opens a page with all that can be folded out."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get(path.as_uri())
    driver.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true"
    )


@pytest.mark.parametrize("name", ["many", "one"])
def test_nothing_overflows_and_nothing_is_logged(name, driver, request):
    path = request.getfixturevalue(name)
    papers = {}
    for scheme in ("light", "dark"):
        for width in (PHONE, 1280):
            show(driver, path, scheme, width)
            assert driver.execute_script("return innerWidth") == width
            # What is too wide scrolls within its own place.
            assert (
                driver.execute_script(
                    """const places = ".scroll, .tall, pre";
                   return Array.from(document.querySelectorAll("body *"))
                     .filter((each) => !each.parentElement.closest(places))
                     .filter((each) => each.getBoundingClientRect().right > innerWidth
                                       || each.getBoundingClientRect().left < 0)
                     .map((each) => each.outerHTML.slice(0, 200))"""
                )
                == []
            )
            assert driver.execute_script(
                "return document.documentElement.scrollWidth <= innerWidth"
            )
        papers[scheme] = driver.execute_script(
            """const style = (each) => getComputedStyle(each);
               const text = document.querySelector("figure svg text");
               return [style(document.body).backgroundColor,
                       style(document.body).color, style(text).fill]"""
        )
        # The figures' ink is that of the page, which is readable.
        paper, ink, figure_ink = (_brightness(color) for color in papers[scheme])
        assert abs(paper - ink) > 150 and abs(paper - figure_ink) > 100
    assert _brightness(papers["dark"][0]) < 50
    assert _brightness(papers["light"][0]) > 200
    assert driver.get_log("browser") == []
    sources = driver.execute_script(
        """return Array.from(document.querySelectorAll("[src], [href]"))
             .map((each) => each.getAttribute("src") || each.getAttribute("href"))"""
    )
    assert all(source.startswith(("data:", "#")) for source in sources)
    images = driver.execute_script(
        "return Array.from(document.images).map((each) => each.naturalWidth)"
    )
    assert all(images)
    assert len(images) > 20 if name == "one" else not images


def _brightness(color: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3


def test_what_stands_on_the_page_of_many_runs(many):
    text = many.read_text()
    tables = json.loads((many.parent / report.JSON).read_text())
    (table,) = tables["tables"]
    assert len(tables["unfinished"]) == 1 and "not finished: " in text
    assert [len(row["seeds"]) for row in table["rows"]] == [3, 3, 3, 1]
    # The table is the one of tables.md.
    for line in (many.parent / report.MARKDOWN).read_text().splitlines():
        for cell in re.findall(r"\| ([^|`]+)(?= \|)", line):
            assert cell.strip("* ") in text
    assert "12 kB" in text and "left out: it lost too much accuracy" in text
    assert "collapsed (3 of 3 seeds)" in text
    assert "--method=kd" in text and text.count("python -m afd_tf.train") == 10
    assert "2 x GPU" in text
    # Without a checkpoint there is nothing on test images.
    assert "Grad-CAM" not in text and "<img" not in text


def test_what_stands_on_the_page_of_one_run(one):
    text = one.read_text()
    for part in (
        "ECE ",
        "Reliability diagram of ensemble",
        "Confusion matrix of wrn_10_1",
        "Most confident mistakes",
        "Grad-CAM",
        "360 test images",
    ):
        assert part in text
    assert text.count("taken for") == 3 * 8
    assert len(re.findall("<tr><th scope=.row.>[0-9]</th>", text)) == 10


@pytest.fixture
def without_curves(monkeypatch):
    monkeypatch.setattr(curves, "sections", lambda table: [])


@pytest.mark.usefixtures("without_curves")
def test_names_are_text_and_no_markup(tmp_path):
    logs.write(tmp_path / "a", method="kd", teacher="<b onclick=x>&amp;")
    report.write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / report.PAGE).read_text()
    assert "<b onclick" not in text
    assert "&lt;b onclick=x&gt;&amp;amp;" in text


@pytest.mark.usefixtures("without_curves")
def test_ties_for_the_highest_mean_are_all_named(tmp_path):
    for method in ("afd", "dml"):
        logs.write(tmp_path / method, method=method)
    report.write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / report.PAGE).read_text()
    assert "resnet8 40.00 (afd and dml)" in text
