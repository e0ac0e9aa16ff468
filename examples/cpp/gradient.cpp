// Prints the gradient of a net with one input: `gradient FILE.onnx OUTPUT SIZE...`, a size for each
// axis of the input, which is filled with ones.

#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

int main(int count, char** arguments) try {
    if (count < 4) throw std::invalid_argument("usage: gradient FILE.onnx OUTPUT SIZE...");
    std::vector<int64_t> shape;
    size_t elements = 1;
    for (int k = 3; k < count; ++k) elements *= shape.emplace_back(std::stoll(arguments[k]));
    std::vector<float> ones(elements, 1);

    Ort::Env env;
    Ort::Session session(env, arguments[1], Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    auto input = session.GetInputNameAllocated(0, allocator);
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto x = Ort::Value::CreateTensor<float>(memory, ones.data(), elements, shape.data(), shape.size());
    const char *inputs[] = {input.get()}, *outputs[] = {arguments[2]};
    auto results = session.Run(Ort::RunOptions(), inputs, &x, 1, outputs, 1);

    for (size_t k = 0; k < results[0].GetTensorTypeAndShapeInfo().GetElementCount(); ++k)
        std::printf("%g\n", results[0].GetTensorData<float>()[k]);
} catch (const std::exception& error) {
    std::fprintf(stderr, "gradient: %s\n", error.what());
    return 1;
}
