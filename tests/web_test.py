"""The page of web/, built, in headless Chromium, against Python on the same files."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image, PngImagePlugin
from sklearn import datasets

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.data.image_files import read_image
from tests import browser, exports, tiny
from tests.browser import program, served
from tests.npm_packages import run_npm

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

WEB = Path(__file__).parents[1] / "web"
ORIENTATION = 0x0112
SECONDS = 30
SHAPES = {"digits": (8, 8, 1), "colours": (32, 32, 3), "oblong": (24, 40, 3)}


def node(directory, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [program("node"), "build.mjs", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Path:
    """A copy of web/ with what npm installs."""
    directory = tmp_path_factory.mktemp("project") / "web"
    shutil.copytree(
        WEB, directory, ignore=shutil.ignore_patterns("dist", "node_modules")
    )
    run_npm(directory, "ci", "--prefer-offline", "--no-audit", "--no-fund")
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, list[Path]]:
    """Files of each kind: lossless ones, and others."""
    directory = tmp_path_factory.mktemp("images")
    china, flower = datasets.load_sample_images().images
    photograph = Image.fromarray(china)
    found = {"lossless": [], "other": []}

    def save(name, image, **options):
        path = directory / name
        image.save(path, **options)
        lossless = path.suffix == ".png" and image.mode != "RGBA"
        found["lossless" if lossless else "other"].append(path)

    for number, pixels in enumerate(datasets.load_digits().images[:6]):
        digit = Image.fromarray((pixels * 15.9375).round().astype(np.uint8))
        save(f"digit_{number}.png", digit)
    save("china.jpg", photograph)
    save("flower.jpg", Image.fromarray(flower))
    save("large.jpg", Image.fromarray(flower).resize((4032, 3024)), quality=85)
    save("grey.png", photograph.convert("L"))
    save("grey_16_bits.png", Image.fromarray(china[..., 0].astype(np.uint16) << 8))
    save("palette.png", Image.fromarray(flower).quantize(64))
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100000).to_bytes(4, "big"))
    save("gamma.png", photograph, pnginfo=gamma)
    fading = np.linspace(0, 255, china[..., 0].size).reshape(china[..., 0].shape)
    save("fading.png", Image.fromarray(np.dstack([flower, fading.astype(np.uint8)])))
    for orientation in (2, 6, 7):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        save(f"turned_{orientation}.jpg", photograph, exif=exif)
    if data_dir := os.environ.get("AFD_TF_TEST_DATA_DIR"):
        cifar = tfds.load("cifar100", split="test[:4]", data_dir=data_dir)
        for number, example in enumerate(cifar.as_numpy_iterator()):
            save(f"cifar_{number}.png", Image.fromarray(example["image"]))
    return found


@pytest.fixture(scope="module")
def site(web, files, tmp_path_factory) -> Path:
    """What a server serves: the page, and networks that tell the images apart."""
    models = tmp_path_factory.mktemp("savedmodels")
    keras.utils.set_random_seed(0)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        info = tiny.info(shape, classes=10)
        peer = exports.random_peer("resnet8", info, seed)
        images = read_all([*files["lossless"], *files["other"]], shape)
        exports.tell_apart(peer, images)
        exports.export(peer, exports.OneImage(info), models / name)
    # As in its README, from the directory above.
    model = os.path.relpath(models / "digits" / "1", web.parent)
    subprocess.run(
        [program("npm"), "--prefix=web", "run", "build", "--", f"--model={model}"],
        cwd=web.parent,
        check=True,
    )
    shutil.copytree(models, web / "dist" / "models")
    return web / "dist"


def read_all(paths, shape) -> np.ndarray:
    return np.stack(
        [read_image(path, channels=shape[2], image_size=shape[:2]) for path in paths]
    )


class Page:
    """The page, as somebody who uses it sees it."""

    def __init__(self, driver, url):
        self.driver = driver
        self.url = url

    def open(self, query="") -> "Page":
        self.driver.get(self.url + query)
        self.wait_for(lambda: self.text("status") == "Ready." or self.text("error"))
        return self

    def text(self, name) -> str:
        return self.driver.find_element(By.ID, name).text

    def wait_for(self, condition) -> None:
        WebDriverWait(self.driver, SECONDS, 0.02).until(lambda _: condition())

    def click(self, name) -> None:
        self.driver.find_element(By.ID, name).click()

    def give(self, path: Path) -> list[list]:
        """Returns [class, probability] as shown, the likeliest first."""
        self.driver.find_element(By.ID, "file").send_keys(str(path))
        return self.answer(path.name)

    def answer(self, name) -> list[list]:
        self.wait_for(
            lambda: self.text("status").startswith(f"{name}: ") or self.text("error")
        )
        return self.driver.execute_script(
            """return Array.from(document.querySelectorAll("#classes li"))
                 .filter((row) => row.checkVisibility())
                 .map((row) => [row.innerText.split("\\n")[0],
                                row.querySelector("meter").value])"""
        )

    def run(self, script, *arguments):
        """Returns what the script, an expression of a promise, comes to."""
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1]; ({script}).then(done)",
            *arguments,
        )

    def uncaught(self) -> list[dict]:
        return [
            entry
            for entry in self.driver.get_log("browser")
            if entry["source"] == "javascript"
        ]


@pytest.fixture(scope="module")
def driver():
    # A camera of the browser's own.
    with browser.chromium("--use-fake-device-for-media-stream") as driver:
        driver.set_script_timeout(SECONDS)
        yield driver


@pytest.fixture(scope="module")
def url(site):
    with served(site) as url:
        yield url


@pytest.fixture
def page(driver, url):
    return Page(driver, url)


@pytest.mark.parametrize("name", SHAPES)
def test_answers_as_python(name, page, site, files):
    version = site / "models" / name / "1"
    classifier = load_classifier(version / "model.tflite")
    paths = [*files["lossless"], *files["other"]]
    logits = classifier.logits(read_all(paths, SHAPES[name]))
    expected = tf.nn.softmax(logits).numpy()
    # That a page which always answers the same does not pass.
    assert len(set(expected.argmax(axis=-1))) > 4

    page.open(f"?model=models/{name}/1")
    assert page.text("network") == "resnet8"
    for path, probabilities in zip(paths, expected, strict=True):
        answer = page.give(path)
        assert not page.text("error")
        best = np.argsort(-probabilities)[:5]
        assert answer[0][0] == classifier.class_names[best[0]], path.name
        np.testing.assert_allclose(
            [probability for _, probability in answer],
            probabilities[best],
            rtol=0,
            atol=1e-3,
            err_msg=path.name,
        )
        assert re.fullmatch(r"\d+\.\d ms", page.text("time"))
    assert not page.uncaught()


@pytest.mark.parametrize("shape", SHAPES.values())
def test_pixels_are_those_of_pillow(shape, page, files):
    page.open()
    for kind, tolerance in (("lossless", 0), ("other", 1)):
        for path, expected in zip(
            files[kind], read_all(files[kind], shape), strict=True
        ):
            page.driver.execute_script(
                "document.body.innerHTML = '<input type=file id=probe>'"
            )
            page.driver.find_element(By.ID, "probe").send_keys(str(path))
            actual = page.run(
                """import("/picture.js").then(({ readPicture }) =>
                     readPicture(document.getElementById("probe").files[0],
                                 arguments[0])
                   ).then((pixels) => Array.from(pixels))""",
                shape,
            )
            np.testing.assert_allclose(
                np.reshape(actual, shape),
                expected.astype(int),
                rtol=0,
                atol=tolerance,
                err_msg=path.name,
            )


def test_a_file_that_is_no_image_is_reported(page, files, tmp_path):
    text, cut = tmp_path / "text.txt", tmp_path / "cut.png"
    text.write_text("not an image\n")
    cut.write_bytes(files["lossless"][0].read_bytes()[:40])
    page.open()
    for path in (text, cut):
        assert page.give(path) == []
        expected = f"{path.name} is no picture that this browser can read."
        assert page.text("error") == expected
        # It goes on.
        assert page.give(files["lossless"][0])
        assert not page.text("error")
    assert not page.uncaught()


def test_all_comes_from_the_host_of_the_page(page, url):
    page.open("?model=https://example.org/model/")
    assert page.text("status") == "Ready."
    loaded = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map(({ name }) => name)"
    )
    assert {name.startswith(url) for name in loaded if ":" in name} == {True}
    assert f"{url}model/model.tflite" in loaded


def test_a_missing_model_is_reported(page, site, url):
    page.open("?model=nowhere")
    expected = f"There is no {url}nowhere/manifest.json (404 File not found)."
    assert page.text("error") == expected

    def error_of(name, manifest, content=None) -> str:
        directory = site / name
        directory.mkdir()
        (directory / "manifest.json").write_text(manifest)
        if content is not None:
            (directory / path).write_bytes(content)
        return page.open(f"?model={name}").text("error")

    manifest = json.loads((site / "model" / "manifest.json").read_text())
    path = manifest["formats"]["tflite"]["path"]
    content = (site / "model" / path).read_bytes()
    complete = json.dumps(manifest)
    expected = "is not what `python -m afd_tf.export` writes beside a network."
    assert error_of("no_manifest", "<html>").endswith(expected)
    assert error_of("no_model", complete).startswith(
        f"There is no {url}no_model/{path}"
    )
    expected = f"{url}damaged/{path} is not the file that manifest.json describes."
    assert error_of("damaged", complete, content[:999]) == expected
    # A format that was refused has no path.
    manifest["formats"] = {"saved_model": {"path": "."}, "tflite_int8": {}}
    assert "without tflite" in error_of("no_tflite", json.dumps(manifest), content)
    manifest["formats"]["tflite_float16"] = {"path": path}
    assert not error_of("another_tflite", json.dumps(manifest), content)
    assert not page.uncaught()


def test_the_model_card_is_shown(page, site):
    version = site / "models" / "colours" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    page.open("?model=models/colours/1")
    assert not page.driver.find_element(By.ID, "card-text").is_displayed()
    page.driver.find_element(By.CSS_SELECTOR, "#card summary").click()
    shown = page.text("card-text").splitlines()
    titles = ["resnet8 on tiny", "Files", "Classes", "Use", "Limits", "Training"]
    assert [line for line in shown if line in titles] == titles
    entry = manifest["formats"]["tflite"]
    assert (
        f"tflite model.tflite {entry['bytes'] / 1e3:,.0f} {entry['accuracy']:.2%} "
        f"{entry['agreement']:.2%} {entry['probability_difference']:.1e} "
        f"{entry['milliseconds']:.2f}"
    ) in shown
    assert f"parameters {manifest['parameters']:,}" in shown
    assert 'network = Interpreter("model.tflite").get_signature_runner()' in shown
    assert f"--method={manifest['flags']['method']}" in shown
    assert not page.uncaught()


def test_a_card_is_text_and_may_be_missing(page, driver, site):
    """Nothing in it is run, and marks with a backslash are shown as they are."""
    shutil.copytree(site / "model", site / "hostile")
    card = site / "hostile" / "README.md"
    card.write_text(
        "# a\\_b \\<i> <img src=x onerror=document.title=0>\n\n| | |\n|---|---|\n"
        "| c\\|d | `e_f` |\n```\n| <script>\n```\n[g](javascript:0) `h\n"
    )
    page.open("?model=hostile")
    actual = page.driver.execute_script(
        """return Array.from(document.querySelectorAll("#card-text *"))
             .filter((each) => !each.children.length)
             .map((each) => [each.tagName, each.textContent])"""
    )
    assert actual == [
        ["H2", "a_b <i> <img src=x onerror=document.title=0>"],
        ["TD", "c|d"],
        ["CODE", "e_f"],
        ["PRE", "| <script>"],
        ["P", "[g](javascript:0) `h"],
    ]
    card.unlink()
    # Another address, where nothing is kept for offline yet.
    with served(site) as url:
        page = Page(driver, url).open("?model=hostile")
        assert page.text("status") == "Ready."
        assert not driver.find_element(By.ID, "card").is_displayed()
        page.run("navigator.serviceWorker.ready.then(() => true)")


def test_a_browser_without_webassembly_is_told(page):
    added = page.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "delete globalThis.WebAssembly"},
    )
    try:
        assert "has no WebAssembly" in page.open().text("error")
        assert not page.uncaught()
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_camera(page):
    def allow(setting):
        page.driver.execute_cdp_cmd(
            "Browser.setPermission",
            {"permission": {"name": "camera"}, "setting": setting, "origin": page.url},
        )

    page.open()
    allow("denied")
    page.click("open-camera")
    page.wait_for(lambda: page.text("error"))
    assert page.text("error").startswith("The camera was refused")
    allow("granted")
    page.click("open-camera")
    page.wait_for(lambda: page.driver.find_element(By.ID, "shoot").is_displayed())
    page.click("shoot")
    assert page.answer("camera.png")
    assert not page.driver.find_element(By.ID, "camera").is_displayed()
    assert not page.uncaught()


def test_opens_without_a_network_once_loaded(driver, site, files):
    image = files["lossless"][0]
    with served(site) as url:
        page = Page(driver, url).open()
        expected = page.give(image)
        page.run("navigator.serviceWorker.ready.then(() => true)")
    assert page.open().text("status") == "Ready."
    assert page.give(image) == expected


def test_build_reports_mistakes(web, site, tmp_path):
    def error_of(*arguments):
        result = node(web, *arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
        # What was built before is still there.
        assert (site / "index.html").is_file()
        return result.stderr

    assert "has no manifest.json" in error_of(f"--model={tmp_path}")
    (tmp_path / "manifest.json").write_text('{"formats": {"saved_model": {}}}')
    assert "has no .tflite file" in error_of(f"--model={tmp_path}")
    assert "--modle" in error_of("--modle=x")
    shutil.copy(web / "build.mjs", tmp_path)
    result = node(tmp_path)
    assert result.stderr == "error: LiteRT is not installed: run `npm ci` first.\n"
