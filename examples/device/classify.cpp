// Classifies images (PPM or PGM, 8 bits) with an .onnx file of afd_tf and ONNX Runtime.
//
//   g++ -std=c++17 -O2 classify.cpp -o classify -I$ORT/include -L$ORT/lib
//     -lonnxruntime -Wl,-rpath,$ORT/lib
//   ./classify model.onnx image.ppm ...
//
// The class names are in the file; so is the normalization of the pixels.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

// Pixels row by row, `channels` bytes each: also what a camera's frame would become.
struct Image {
  long height, width, channels;
  std::vector<uint8_t> pixels;
};

Image read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  long width = 0, height = 0, white = 0;
  file >> kind >> width >> height >> white;
  file.get();  // One white space stands before the pixels.
  if ((kind != "P6" && kind != "P5") || width < 1 || height < 1 || white != 255 ||
      width > 32768 || height > 32768)
    throw std::runtime_error(path + " is no binary PPM or PGM of 8 bits: convert it.");
  Image image{height, width, kind == "P6" ? 3 : 1, {}};
  image.pixels.resize(height * width * image.channels);
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
    throw std::runtime_error(path + " is cut off.");
  return image;
}

// Resizes columns [left, left + taken) of an image to `size` columns, bilinear and
// antialiased, as Pillow does. The result is transposed: two calls restore the order.
Image resize(const Image& image, long left, long taken, long size) {
  Image out{size, image.height, image.channels, {}};
  out.pixels.resize(size * image.height * image.channels);
  const double scale = double(taken) / size, support = std::max(scale, 1.0);
  for (long x = 0; x < size; ++x) {
    const double center = (x + 0.5) * scale;
    const long first = std::max(long(center - support + 0.5), 0L);
    const long end = std::min(long(center + support + 0.5), taken);
    std::vector<double> weights;
    for (long k = first; k < end; ++k)
      weights.push_back(std::max(1 - std::abs((k - center + 0.5) / support), 0.0));
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (long y = 0; y < image.height; ++y)
      for (long c = 0; c < image.channels; ++c) {
        double value = 0.5;  // Rounds.
        for (long k = first; k < end; ++k)
          value += weights[k - first] / sum *
                   image.pixels[(y * image.width + left + k) * image.channels + c];
        out.pixels[(x * image.height + y) * image.channels + c] = uint8_t(value);
      }
  }
  return out;
}

// The largest centre that has the network's shape, resized to it.
Image fit(const Image& image, long height, long width) {
  const double scale =
      std::min(double(image.height) / height, double(image.width) / width);
  const long rows = std::nearbyint(height * scale);
  const long columns = std::nearbyint(width * scale);
  const Image narrow = resize(image, (image.width - columns) / 2, columns, width);
  return resize(narrow, (image.height - rows) / 2, rows, height);
}

int main(int count, char** arguments) try {
  if (count < 3) throw std::runtime_error("give a model and images: model.onnx a.ppm");
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "classify");
  Ort::Session session(environment, arguments[1], Ort::SessionOptions());
  const auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  Ort::AllocatorWithDefaultOptions allocator;
  const auto data = session.GetModelMetadata();
  const auto labels = data.LookupCustomMetadataMapAllocated("labels.txt", allocator);
  std::vector<std::string> names;
  std::istringstream lines(labels ? labels.get() : "");
  for (std::string name; std::getline(lines, name);) names.push_back(name);
  if (names.empty() || shape.size() != 4)
    throw std::runtime_error(std::string(arguments[1]) + " is no file of afd_tf.");
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
  for (int number = 2; number < count; ++number) {
    Image image = fit(read(arguments[number]), shape[1], shape[2]);
    if (image.channels != shape[3])
      throw std::runtime_error(std::string(arguments[number]) + " has " +
                               std::to_string(image.channels) + " channels, not " +
                               std::to_string(shape[3]) + ".");
    const std::array<int64_t, 4> one{1, shape[1], shape[2], shape[3]};
    const auto input = Ort::Value::CreateTensor<uint8_t>(
        memory, image.pixels.data(), image.pixels.size(), one.data(), one.size());
    const char *inputs[] = {"image"}, *outputs[] = {"probabilities"};
    const auto began = std::chrono::steady_clock::now();
    const auto answer = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 1);
    const std::chrono::duration<double, std::milli> took =
        std::chrono::steady_clock::now() - began;
    const float* scores = answer[0].GetTensorData<float>();
    std::vector<size_t> best(names.size());
    std::iota(best.begin(), best.end(), 0);
    std::stable_sort(best.begin(), best.end(),
                     [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    std::printf("%s:", arguments[number]);
    for (size_t k = 0; k < std::min<size_t>(5, best.size()); ++k)
      std::printf(" %s%.4f %s", k ? " " : "", scores[best[k]], names[best[k]].c_str());
    std::printf("  (%.1f ms)\n", took.count());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
