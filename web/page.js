// What the page shows and listens to.

import { readCard } from "./card.js";
import { loadClassifier } from "./classifier.js";

const MOST_SHOWN = 5;

const element = (id) => document.getElementById(id);
let pictures = 0;
let classifier;

async function start() {
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be chosen again
    if (file) show(file);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) show(file);
    else fail(new Error("What was dropped is no file."));
  });
  element("open-camera").addEventListener("click", () => openCamera().catch(fail));
  element("shoot").addEventListener("click", () => shoot().catch(fail));
  element("close-camera").addEventListener("click", closeCamera);

  classifier = loadClassifier(modelDirectory());
  try {
    const { name, shape, card } = await classifier;
    element("network").textContent = name;
    element("card-text").replaceChildren(...readCard(card));
    element("card").hidden = !card;
    const [height, width] = shape;
    document.body.style.setProperty("--shape", `${width} / ${height}`);
    say("Ready.");
  } catch (error) {
    fail(error);
    return;
  }
  keepForOffline().catch(console.warn);
}

/** `?model=` relative to the page, on its own host only. */
function modelDirectory() {
  const path = new URLSearchParams(location.search).get("model") ?? "model/";
  const url = new URL(path.replace(/\/*$/, "/"), document.baseURI);
  return url.origin === location.origin ? url : new URL("model/", document.baseURI);
}

async function show(file) {
  const number = ++pictures;
  say(`Looking at ${file.name} …`);
  element("result").hidden = true;
  try {
    const { classify } = await classifier;
    const { classes, milliseconds } = await classify(file);
    // Of several pictures, the last one that was given is shown.
    if (number === pictures) showResult(file, classes, milliseconds);
  } catch (error) {
    if (number === pictures) fail(error);
  }
}

function showResult(file, classes, milliseconds) {
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name;
  element("classes").replaceChildren(...classes.slice(0, MOST_SHOWN).map(classRow));
  element("time").textContent = `${milliseconds.toFixed(1)} ms`;
  element("result").hidden = false;
  say(`${file.name}: ${classes[0].name}, ${percent(classes[0].probability)}.`);
}

function classRow({ name, probability }) {
  const row = document.createElement("li");
  const label = document.createElement("span");
  const meter = document.createElement("meter");
  const value = document.createElement("span");
  label.textContent = name;
  meter.value = probability;
  meter.setAttribute("aria-label", name);
  value.textContent = percent(probability);
  row.append(label, value, meter);
  return row;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the camera to pages served over https only.");
  }
  closeCamera();
  try {
    element("video").srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    throw new Error(
      error.name === "NotAllowedError"
        ? "The camera was refused: allow it in the browser's settings of this page."
        : `There is no camera that can be used (${error.name}).`,
    );
  }
  element("camera").hidden = false;
  await element("video").play();
  element("shoot").focus();
}

async function shoot() {
  const video = element("video");
  if (!video.videoWidth) return; // It has not begun yet.
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await show(new File([blob], "camera.png"));
}

function closeCamera() {
  const video = element("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  element("camera").hidden = true;
}

/** Keeps all that was loaded, so that the page also opens without a network. */
async function keepForOffline() {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return;
  const loaded = performance
    .getEntriesByType("resource")
    .filter(({ responseStatus }) => !(responseStatus >= 400)) // E.g. no model card.
    .map(({ name }) => name);
  const cache = await caches.open("afd_tf");
  await cache.addAll(new Set([location.href, ...loaded]));
  await navigator.serviceWorker.register("service_worker.js");
}

function say(text) {
  element("error").textContent = "";
  element("status").textContent = text;
}

function fail(error) {
  element("status").textContent = "";
  element("error").textContent = error.message;
}

start();
