// A network that `python -m afd_tf.export` wrote, run by LiteRT in the browser.

import { readPicture } from "./picture.js";

const CARD = "README.md";

/**
 * Loads a network.
 *
 * @param {URL} directory holds manifest.json and what it names; ends in a slash.
 * @returns {Promise<{name: string, shape: number[], card: string,
 *   classify: (file: Blob) => Promise<{
 *   classes: {name: string, probability: number}[], milliseconds: number}>}>}
 *   shape: height, width and channels. card: the model card, Markdown, "" without one.
 *   classify: all classes, the likeliest first, and the time of the network alone.
 */
export async function loadClassifier(directory) {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off.");
  }
  const manifest = await readManifest(directory);
  const { name, shape, classNames, path, sha256 } = manifest;
  const content = await readModel(new URL(path, directory), sha256);
  const card = manifest.hasCard ? await readText(new URL(CARD, directory)) : "";
  const { loadAndCompile, Tensor } = await loadRuntime();
  const model = await loadAndCompile(content, {
    accelerator: "wasm", // Networks this small are no faster with WebGPU.
  });

  async function run(pixels) {
    const image = new Tensor(pixels, [1, ...shape]);
    const outputs = await model.run({ image });
    // Older networks also give logits, and know probabilities to 1/256 only in 8 bits.
    const probabilities = outputs.logits
      ? softmax(outputs.logits.toTypedArray())
      : Array.from(outputs.probabilities.toTypedArray());
    // LiteRT's memory is not collected.
    for (const tensor of [image, ...Object.values(outputs)]) {
      tensor.delete();
    }
    return probabilities;
  }

  async function classify(file) {
    const pixels = await readPicture(file, shape);
    const started = performance.now();
    const probabilities = await run(pixels);
    const milliseconds = performance.now() - started;
    const classes = classNames
      .map((name, index) => ({ name, probability: probabilities[index] }))
      .sort((a, b) => b.probability - a.probability);
    return { classes, milliseconds };
  }

  // The first run takes ten times as long as any other.
  await run(new Uint8Array(shape[0] * shape[1] * shape[2]));
  return { name, shape, card, classify };
}

function softmax(logits) {
  const greatest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - greatest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

async function readManifest(directory) {
  const response = await fetchFile(new URL("manifest.json", directory));
  let manifest;
  try {
    const { name, dataset, formats, files } = await response.json();
    const { image_shape: shape, class_names: classNames } = dataset;
    const path = modelPath(formats);
    const hasCard = CARD in files;
    const { sha256 } = files[path] ?? {};
    manifest = { name, shape, classNames, path, sha256, hasCard };
  } catch {
    // E.g. a host that answers every address with its front page.
    throw new Error(
      `${response.url} is not what \`python -m afd_tf.export\` writes beside a network.`,
    );
  }
  if (!manifest.path) {
    throw new Error("This network was exported without tflite: add it to --formats.");
  }
  if (![1, 3].includes(manifest.shape[2])) {
    throw new Error(`The network takes pictures of ${manifest.shape[2]} channels.`);
  }
  return manifest;
}

/** The float32 .tflite file, or the first other one; undefined if there is none. */
function modelPath(formats) {
  return [formats.tflite, ...Object.values(formats)]
    .map((format) => format?.path)
    .find((path) => path?.endsWith(".tflite"));
}

/** Refuses a damaged file, and one of another export, whose classes are others. */
async function readModel(url, sha256) {
  const response = await fetchFile(url);
  const content = new Uint8Array(await response.arrayBuffer());
  // Over plain http from another machine, browsers have no checksums.
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const actual = [...digest].map((byte) => byte.toString(16).padStart(2, "0"));
    if (actual.join("") !== sha256) {
      throw new Error(`${url} is not the file that manifest.json describes.`);
    }
  }
  return content;
}

/** A file that the page can do without. */
async function readText(url) {
  try {
    return await (await fetchFile(url)).text();
  } catch {
    return "";
  }
}

async function loadRuntime() {
  try {
    // Not above, where a browser that cannot load it would show nothing.
    const runtime = await import("@litertjs/core");
    await runtime.loadLiteRt(new URL("litert/", document.baseURI).href);
    return runtime;
  } catch (error) {
    // A script that does not arrive is an event without a message.
    throw new Error(
      `LiteRT cannot be loaded: ${error.message ?? "a file of it is missing."}`,
    );
  }
}

async function fetchFile(url) {
  let response;
  try {
    // A manifest and a network of two exports must not meet in the browser's cache.
    response = await fetch(url, { cache: "no-cache" });
  } catch {
    throw new Error(`${url} cannot be reached.`);
  }
  if (!response.ok) {
    throw new Error(`There is no ${url} (${response.status} ${response.statusText}).`);
  }
  return response;
}
