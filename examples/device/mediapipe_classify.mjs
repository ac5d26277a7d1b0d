// Classifies images in a browser with MediaPipe Tasks and a .tflite file of afd_tf.
//
// npm install @mediapipe/tasks-vision
//
// A page's import map, or a bundler, says where "@mediapipe/tasks-vision" is.

import { FilesetResolver, ImageClassifier } from "@mediapipe/tasks-vision";

/**
 * Loads a network.
 *
 * @param {string} model the address of a .tflite file.
 * @param {string} wasm the address of the folder wasm/ of @mediapipe/tasks-vision.
 */
export async function loadClassifier(model, wasm) {
  return ImageClassifier.createFromOptions(await FilesetResolver.forVisionTasks(wasm), {
    baseOptions: { modelAssetPath: model, delegate: "CPU" },
    maxResults: 5,
  });
}

/**
 * Classifies the central square of an image: MediaPipe would distort the whole one.
 *
 * @param {ImageClassifier} classifier for square images.
 * @param {ImageBitmap} image e.g. what createImageBitmap(file) gives.
 * @returns {{name: string, score: number}[]} the likeliest first.
 */
export function classify(classifier, image) {
  const side = Math.min(image.width, image.height);
  const [width, height] = [side / image.width, side / image.height];
  const [left, top] = [(1 - width) / 2, (1 - height) / 2];
  const { classifications } = classifier.classify(image, {
    regionOfInterest: { left, top, right: left + width, bottom: top + height },
  });
  return classifications[0].categories.map(({ categoryName, score }) => ({
    name: categoryName,
    score,
  }));
}
