// Explains a photo with a file that onnxgrad wrote: what the net sees, and where.
//
//     explain EXPLAINED.onnx PHOTO.ppm MAP.pgm [MEAN STD]
//
// The photo is a binary PPM of the size that the net takes; each of its values becomes
// (value - MEAN) / STD. The map is a PGM of that size: white is what speaks for the class.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

using Shape = std::vector<int64_t>;

// The pixels as the net takes them, [channel, row, column].
std::vector<float> read_ppm(const std::string& path, int64_t height, int64_t width, float mean,
                            float std) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int64_t columns = 0, rows = 0, largest = 0;
    file >> magic >> columns >> rows >> largest;
    file.get();  // the one white space before the pixels
    if (magic != "P6" || largest != 255 || columns != width || rows != height)
        throw std::runtime_error(path + " is no binary PPM of " + std::to_string(width) + " x " +
                                 std::to_string(height) + " pixels");
    std::vector<unsigned char> bytes(3 * height * width);
    if (!file.read(reinterpret_cast<char*>(bytes.data()), bytes.size()))
        throw std::runtime_error(path + " ends too early");
    std::vector<float> pixels(bytes.size());
    for (int64_t place = 0; place < height * width; ++place)
        for (int64_t channel = 0; channel < 3; ++channel)
            pixels[channel * height * width + place] = (bytes[3 * place + channel] - mean) / std;
    return pixels;
}

// The attribution, [..., row, column], as grey values. Of several channels the largest counts.
void write_pgm(const std::string& path, const Ort::Value& attribution) {
    Shape shape = attribution.GetTensorTypeAndShapeInfo().GetShape();
    size_t count = attribution.GetTensorTypeAndShapeInfo().GetElementCount();
    size_t width = shape[shape.size() - 1], height = shape[shape.size() - 2];
    const float* values = attribution.GetTensorData<float>();
    std::vector<float> map(height * width);
    for (size_t k = 0; k < count; ++k)
        map[k % map.size()] = std::max(map[k % map.size()], std::abs(values[k]));
    float top = *std::max_element(map.begin(), map.end());
    std::ofstream file(path, std::ios::binary);
    file << "P5\n" << width << " " << height << "\n255\n";
    for (float value : map) file.put(static_cast<char>(std::lround(top > 0 ? 255 * value / top : 0)));
    if (!file) throw std::runtime_error("cannot write " + path);
}

// The output that holds the attribution. The file's metadata say so, in JSON: {"image": "..."}.
std::string attribution_of(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto json = session.GetModelMetadata().LookupCustomMetadataMapAllocated(
        "onnxgrad.attributions", allocator);
    std::cmatch match;
    if (!json || !std::regex_search(json.get(), match, std::regex(R"re(: *"([^"]*)")re")))
        throw std::runtime_error("the model has no metadata onnxgrad.attributions");
    return match[1];
}

int main(int count, char** arguments) try {
    if (count != 4 && count != 6) {
        std::fprintf(stderr, "usage: explain EXPLAINED.onnx PHOTO.ppm MAP.pgm [MEAN STD]\n");
        return 2;
    }
    float mean = count == 6 ? std::stof(arguments[4]) : 0;
    float std = count == 6 ? std::stof(arguments[5]) : 255;

    Ort::Env env(ORT_LOGGING_LEVEL_WARNING);
    Ort::Session session(env, arguments[1], Ort::SessionOptions());
    Shape shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape.size() != 4 || shape[1] != 3 || shape[2] < 1 || shape[3] < 1)
        throw std::runtime_error("the model takes no photos, [N, 3, height, width]");
    shape[0] = 1;
    std::vector<float> pixels = read_ppm(arguments[2], shape[2], shape[3], mean, std);

    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value image = Ort::Value::CreateTensor<float>(memory, pixels.data(), pixels.size(),
                                                       shape.data(), shape.size());
    Ort::AllocatorWithDefaultOptions allocator;
    auto input = session.GetInputNameAllocated(0, allocator);
    auto scores = session.GetOutputNameAllocated(0, allocator);
    std::string attribution = attribution_of(session);
    const char* inputs[] = {input.get()};
    const char* outputs[] = {scores.get(), attribution.c_str()};
    auto results = session.Run(Ort::RunOptions(), inputs, &image, 1, outputs, 2);

    const float* score = results[0].GetTensorData<float>();
    size_t classes = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
    size_t seen = std::max_element(score, score + classes) - score;
    std::printf("class %zu, score %.6f\n", seen, score[seen]);
    write_pgm(arguments[3], results[1]);
} catch (const std::exception& error) {
    std::fprintf(stderr, "explain: %s\n", error.what());
    return 1;
}
