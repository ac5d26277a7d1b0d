// A picture file as the pixels that the network was evaluated on: what
// afd_tf/data/image_files.py does with Pillow, to the same 8-bit values.
//
// A canvas' own resize is another one in every browser, so the filter is here.

const PRECISION_BITS = 22;
const ROWS_AT_ONCE = 64;

/**
 * Reads the greatest central part of a picture that has the shape, resized.
 *
 * @param {Blob} file any format that the browser reads.
 * @param {number[]} shape height, width and channels: 1 (grey) or 3 (red, green, blue).
 * @returns {Promise<Uint8Array>} [height, width, channels].
 */
export async function readPicture(file, shape) {
  let bitmap;
  try {
    // Turned upright as its EXIF says: the default. Colour profiles are left alone, as
    // they were in training.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read.`);
  }
  try {
    return resizeCenter(bitmap, shape);
  } finally {
    bitmap.close();
  }
}

function resizeCenter(bitmap, [height, width, channels]) {
  const scale = Math.min(bitmap.height / height, bitmap.width / width);
  const rows = roundHalfToEven(height * scale);
  const columns = roundHalfToEven(width * scale);
  const left = Math.floor((bitmap.width - columns) / 2);
  const top = Math.floor((bitmap.height - rows) / 2);
  const filters = triangleFilters(columns, width);
  const narrow = new Uint8Array(rows * width * channels);
  // Part by part: phones refuse a canvas as large as their own photographs.
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = Math.min(rows, ROWS_AT_ONCE);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // what shows through transparent pixels
  for (let first = 0; first < rows; first += ROWS_AT_ONCE) {
    const part = Math.min(ROWS_AT_ONCE, rows - first);
    context.fillRect(0, 0, columns, part);
    context.drawImage(bitmap, left, top + first, columns, part, 0, 0, columns, part);
    const { data } = context.getImageData(0, 0, columns, part);
    const pixels = withChannels(data, channels);
    const resized = resizeRows(pixels, part, columns, channels, filters);
    narrow.set(resized, first * width * channels);
  }
  // [rows, width, channels] as one long row of pixels with width * channels values.
  return resizeRows(narrow, 1, rows, width * channels, triangleFilters(rows, height));
}

/** As Python rounds. */
function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 ? rounded - (rounded % 2) : rounded;
}

/** Red, green, blue, alpha to 1 or 3 channels, as Pillow's convert("L" or "RGB"). */
function withChannels(data, channels) {
  const count = data.length / 4;
  const pixels = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    const red = data[4 * i];
    const green = data[4 * i + 1];
    const blue = data[4 * i + 2];
    if (channels === 1) {
      // ITU-R 601-2 luma in 16-bit fixed point.
      pixels[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    } else {
      pixels[3 * i] = red;
      pixels[3 * i + 1] = green;
      pixels[3 * i + 2] = blue;
    }
  }
  return pixels;
}

/** [rows, length, channels] to [rows, filters.length, channels]. */
function resizeRows(pixels, rows, length, channels, filters) {
  const result = new Uint8Array(rows * filters.length * channels);
  let position = 0;
  for (let row = 0; row < rows; row++) {
    for (const { first, weights } of filters) {
      const start = (row * length + first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION_BITS - 1); // rounds
        let index = start + channel;
        for (let k = 0; k < weights.length; k++, index += channels) {
          sum += pixels[index] * weights[k];
        }
        // The weights sum up to 1 only but for their own rounding.
        result[position++] = Math.min(sum >> PRECISION_BITS, 255);
      }
    }
  }
  return result;
}

/**
 * Pillow's antialiased bilinear filter in fixed point (its Resample.c): a triangle as
 * wide as the reduction, normalised to 1, for each of `size` results.
 */
function triangleFilters(length, size) {
  const scale = length / size;
  const support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, position) => {
    const center = (position + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), length);
    const heights = Array.from({ length: end - first }, (_, k) =>
      Math.max(1 - Math.abs((first + k - center + 0.5) / support), 0),
    );
    const sum = heights.reduce((total, height) => total + height, 0);
    const weights = Int32Array.from(heights, (height) =>
      Math.trunc(0.5 + (height / sum) * (1 << PRECISION_BITS)),
    );
    return { first, weights };
  });
}
