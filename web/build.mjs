// Puts dist/ together: the page, LiteRT's runtime and, with --model=DIR, a network.

import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const PAGE = [
  "index.html",
  "style.css",
  "page.js",
  "card.js",
  "classifier.js",
  "picture.js",
  "service_worker.js",
];

// By their names in dist/. LiteRT takes the "compat" files where a browser lacks
// relaxed SIMD. Its builds with threads or WebGPU partitioning are left out: the
// former need headers (COOP, COEP) that simple hosts do not send.
const RUNTIME = {
  "litert/core.js": "@litertjs/core/dist/index.js",
  "litert/wasm_utils.js": "@litertjs/wasm-utils/dist/index.js",
  "litert/litert_wasm_internal.js": "@litertjs/core/wasm/litert_wasm_internal.js",
  "litert/litert_wasm_internal.wasm": "@litertjs/core/wasm/litert_wasm_internal.wasm",
  "litert/litert_wasm_compat_internal.js":
    "@litertjs/core/wasm/litert_wasm_compat_internal.js",
  "litert/litert_wasm_compat_internal.wasm":
    "@litertjs/core/wasm/litert_wasm_compat_internal.wasm",
};

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");

try {
  build(parseArgs({ options: { model: { type: "string" } } }).values.model);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}

function build(model) {
  const modules = join(here, "node_modules");
  if (!existsSync(join(modules, "@litertjs"))) {
    throw new Error("LiteRT is not installed: run `npm ci` first.");
  }
  // Read before anything is removed; npm runs this in web/, wherever it was called.
  const network = model && readModel(resolve(process.env.INIT_CWD ?? ".", model));
  rmSync(dist, { recursive: true, force: true });
  for (const name of PAGE) {
    copy(join(here, name), name);
  }
  for (const [name, source] of Object.entries(RUNTIME)) {
    copy(join(modules, source), name);
  }
  for (const name of network?.files ?? []) {
    copy(join(network.directory, name), join("model", name));
  }
}

function readModel(directory) {
  const manifest = join(directory, "manifest.json");
  if (!existsSync(manifest)) {
    throw new Error(
      `${directory} has no manifest.json: --model is a version that ` +
        "`python -m afd_tf.export` wrote, as savedmodels/digits/1.",
    );
  }
  const { formats } = JSON.parse(readFileSync(manifest, "utf8"));
  const networks = Object.values(formats)
    .map((format) => format.path)
    .filter((path) => path?.endsWith(".tflite"));
  if (networks.length === 0) {
    throw new Error(`${directory} has no .tflite file: export it with tflite.`);
  }
  // Versions of earlier exports have no model card.
  const card = existsSync(join(directory, "README.md")) ? ["README.md"] : [];
  return { directory, files: ["manifest.json", ...card, ...networks] };
}

function copy(source, name) {
  const target = join(dist, name);
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(source, target);
}
