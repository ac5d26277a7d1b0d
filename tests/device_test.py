"""The programs of examples/device, in environments without TensorFlow."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn import datasets

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.data.image_files import read_image
from tests import browser, clean_packages, exports, npm_packages, tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "device"
SIZE = 32
ORIENTATION = 0x0112
# path: 0.1234 one class  0.0567 another  (1.2 ms)
LINE = re.compile(r"(?P<path>.*\.\w+): (?P<answer>.*?)(?:  \(\d+\.\d ms\))?")
ANSWER = re.compile(r"(0\.\d{4}|1\.0000) (class \d)(?:  |$)")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    """Files of two photographs: turned, transparent, oblong, grey, small."""
    folder = tmp_path_factory.mktemp("photos")
    china, flower = map(Image.fromarray, datasets.load_sample_images().images)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    china.save(folder / "turned.jpg", exif=exif)
    flower.save(folder / "flower.jpg")
    china.convert("L").save(folder / "grey.png")
    fading = Image.fromarray(np.linspace(0, 255, 427 * 640).reshape(427, 640).round())
    flower.putalpha(fading.convert("L"))
    flower.save(folder / "fading.png")
    for number in range(6):
        left = 60 * number
        part = china.crop((left, 10 * number, left + 200, 10 * number + 150))
        part.save(folder / f"part_{number}.png")
    return sorted(map(str, folder.iterdir()))


def pixels(paths, channels) -> np.ndarray:
    return np.stack(
        [read_image(path, channels=channels, image_size=SIZE) for path in paths]
    )


def exported(photos, channels, formats, folder) -> Path:
    """A network whose answers to the photos differ."""
    keras.utils.set_random_seed(0)
    info = tiny.info((SIZE, SIZE, channels), classes=8)
    peer = exports.random_peer("resnet8", info)
    exports.tell_apart(peer, pixels(photos, channels))
    _, directory = exports.export(
        peer, exports.SomeImages(info), folder, formats, max_accuracy_drop=1.0
    )
    return directory


@pytest.fixture(scope="module")
def colour(photos, tmp_path_factory) -> Path:
    formats = ["tflite", "tflite_int8", "onnx"]
    return exported(photos, 3, formats, tmp_path_factory.mktemp("colour"))


def answers(printed: str) -> dict[str, list[tuple[str, str]]]:
    """Returns [(probability, class), ...] by path."""
    matches = [LINE.fullmatch(line) for line in printed.splitlines()]
    return {each["path"]: ANSWER.findall(each["answer"]) for each in matches}


def test_the_program_is_short():
    assert len((EXAMPLE / "classify.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", ["model.tflite", "model_int8.tflite", "grey"])
def test_answers_are_those_of_predict(name, photos, colour, tmp_path):
    packages = clean_packages.installed("litert", "ai-edge-litert", "numpy", "pillow")
    if name == "grey":
        model = exported(photos, 1, ["tflite"], tmp_path) / "model.tflite"
    else:
        model = colour / name
    printed = clean_packages.run(
        packages, EXAMPLE / "classify.py", str(model), *photos, "--top_k=8"
    )
    assert re.search(r"\(\d+\.\d ms\)$", printed.splitlines()[0])
    found = answers(printed)
    classifier = load_classifier(model)
    expected = classifier.predict(pixels(photos, classifier.image_shape[2]))
    assert len(set(expected.argmax(axis=-1))) > 2
    assert list(found) == photos
    for path, probabilities in zip(photos, expected, strict=True):
        scores = [float(score) for score, _ in found[path]]
        named = [classifier.class_names.index(title) for _, title in found[path]]
        assert sorted(named) == list(range(8)), path
        assert scores == sorted(scores, reverse=True), path
        # As they are printed.
        np.testing.assert_allclose(scores, probabilities[named], atol=6e-5)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory) -> list[str]:
    """Images whose centres need no resizing, for which MediaPipe has another filter."""
    folder = tmp_path_factory.mktemp("oblong")
    photo = Image.fromarray(datasets.load_sample_images().images[0])
    paths = []
    for number in range(8):
        size = (SIZE, SIZE + 16) if number % 2 else (SIZE + 16, SIZE)
        left, top = 70 * number, 40 * number
        paths.append(str(folder / f"{number}.png"))
        photo.crop((left, top, left + size[0], top + size[1])).save(paths[-1])
    return paths


def assert_best_five(found, model, paths, tolerance=6e-5) -> None:
    """Compares [(score, class), ...] by path with the answers of `predict`.

    The tolerance is that of four printed digits.
    """
    classifier = load_classifier(model)
    expected = classifier.predict(pixels(paths, 3))
    assert len(set(expected.argmax(axis=-1))) > 2
    for path, probabilities in zip(paths, expected, strict=True):
        scores = [float(score) for score, _ in found[path]]
        named = [classifier.class_names.index(title) for _, title in found[path]]
        assert len(set(named)) == 5, path
        best = np.sort(probabilities)[::-1][:5]
        np.testing.assert_allclose(scores, best, atol=tolerance, err_msg=path)
        # By name, as two classes may be equally probable in 8 bits.
        np.testing.assert_allclose(scores, probabilities[named], atol=tolerance)


def test_mediapipe_sees_the_centre_of_an_image(colour, oblong):
    packages = clean_packages.installed("mediapipe", "mediapipe>=1.0,<2")
    model = colour / "model.tflite"
    printed = clean_packages.run(
        packages, EXAMPLE / "mediapipe_classify.py", str(model), *oblong
    )
    found = answers(printed)
    assert list(found) == oblong
    assert_best_five(found, model, oblong)


def test_mediapipe_in_a_browser(colour, oblong, tmp_path):
    package = npm_packages.unpacked(
        "@mediapipe/tasks-vision",
        "1.1.0",
        "ZJqh0wMKOINorfSffvDAxzyO1//c+FiG3IkzOdNDnLqvBB3DbMfj0bB/tys2SNf9S914sgoIbIpF4HTO"
        "i336cg==",
        r"vision_bundle\.mjs",
        r"wasm/vision_wasm_internal\.(js|wasm)",
    )
    shutil.copytree(package, tmp_path / "mediapipe")
    shutil.copy(EXAMPLE / "mediapipe_classify.mjs", tmp_path)
    models = ["model.tflite", "model_int8.tflite"]
    for name in models:
        shutil.copy(colour / name, tmp_path)
    for path in oblong:
        shutil.copy(path, tmp_path)
    (tmp_path / "index.html").write_text(
        """<!doctype html><script type="importmap">{"imports":
             {"@mediapipe/tasks-vision": "./mediapipe/vision_bundle.mjs"}}</script>"""
    )
    with browser.served(tmp_path) as url, browser.chromium() as driver:
        driver.set_script_timeout(60)
        driver.get(url)
        for name in models:
            found = driver.execute_async_script(
                """const [model, paths, done] = arguments;
                   (async () => {
                     const example = await import("/mediapipe_classify.mjs");
                     const wasm = "/mediapipe/wasm";
                     const loaded = await example.loadClassifier(model, wasm);
                     const found = [];
                     for (const path of paths) {
                       const file = await (await fetch(path)).blob();
                       const image = await createImageBitmap(file);
                       found.push(example.classify(loaded, image));
                     }
                     return found;
                   })().then(done, (error) => done(String(error)));""",
                name,
                [Path(path).name for path in oblong],
            )
            assert isinstance(found, list), found
            found = {
                path: [(each["score"], each["name"]) for each in answer]
                for path, answer in zip(oblong, found, strict=True)
            }
            assert_best_five(found, colour / name, oblong, tolerance=1e-5)
        loaded = driver.execute_script(
            "return performance.getEntriesByType('resource').map(({ name }) => name)"
        )
        assert f"{url}mediapipe/wasm/vision_wasm_internal.wasm" in loaded
        assert {each.startswith(url) for each in loaded if "http" in each} == {True}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """The C++ program, built with ONNX Runtime."""
    compiler = browser.program("g++")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("npm has ONNX Runtime's headers and library for Linux on x86-64")
    headers = "Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework"
    # The only package of PyPI, npm and Debian 12 with both. The headers are those of
    # every system.
    package = npm_packages.unpacked(
        "com.github.asus4.onnxruntime",
        "0.4.9",
        "BkzxduSZ9IkeDP6Q8lz2TFU2ie7hSSvS7ZIfzMooExoq0CNzJnuuGaUJ7IsojBgqO4ouD1jXah8OYyJb"
        "CN29Fg==",
        rf"{headers}/Headers/.*\.h",
        r"Plugins/Linux/x64/libonnxruntime\.so",
    )
    folder = tmp_path_factory.mktemp("compiled")
    library = package / "Plugins/Linux/x64/libonnxruntime.so"
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"),
            *(EXAMPLE / "classify.cpp", "-o", folder / "classify"),
            *("-isystem", package / headers / "Headers"),
            *(f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"),
        ],
        check=True,
    )
    return folder / "classify"


def as_pixel_maps(paths, folder, mode="RGB") -> list[str]:
    """Writes images as the C++ program reads them, with the pixels of `predict`."""
    made = []
    for path in paths:
        made.append(str(folder / f"{Path(path).stem}.ppm"))
        with Image.open(path) as image:
            # Turned and without transparency, which these files do not have.
            ImageOps.exif_transpose(image).convert(mode).save(made[-1])
    return made


def test_the_cpp_program_answers_as_predict(compiled, colour, photos, tmp_path):
    opaque = [path for path in photos if "fading" not in path]
    paths = as_pixel_maps(opaque, tmp_path)
    model = colour / "model.onnx"
    printed = subprocess.run(
        [compiled, model, *paths], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"\(\d+\.\d ms\)$", printed.splitlines()[0])
    found = answers(printed)
    assert list(found) == paths
    # Its weights are not in fixed point: a pixel may differ by one level.
    assert_best_five(found, model, paths, tolerance=1e-3)


def test_the_cpp_program_reports_mistakes(compiled, colour, photos, tmp_path):
    (grey,) = as_pixel_maps(photos[:1], tmp_path, "L")
    (cut,) = as_pixel_maps(photos[1:2], tmp_path)
    content = Path(cut).read_bytes()
    Path(cut).write_bytes(content[: len(content) // 2])

    def error_of(*arguments) -> str:
        result = subprocess.run(
            [compiled, *arguments], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
        return result.stderr

    model = colour / "model.onnx"
    assert "has 1 channels, not 3" in error_of(model, grey)
    assert "is cut off" in error_of(model, cut)
    assert "is no binary PPM or PGM" in error_of(model, photos[0])
    assert "/nowhere" in error_of("/nowhere", grey)
    assert error_of(model).startswith("error: give a model and images")
