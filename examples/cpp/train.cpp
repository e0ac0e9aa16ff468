// Trains a net whose training step onnxgrad wrote as a file.
//
//     train FOLDER EPOCHS BATCH LEARNING_RATE
//
// FOLDER holds what onnxgrad's train.artifacts wrote, of which this reads step.onnx, init.onnx, which
// gives the first state, and infer.onnx, which takes the weights as inputs, and the data:
// training.onnx and held_back.onnx. These and init.onnx take nothing and give tensors by name, so
// that no other file format is needed. The trained state is written to FOLDER/trained, a file
// NAME.npy for each piece of it.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

using Shape = std::vector<int64_t>;
using Tensors = std::map<std::string, Ort::Value>;

const Ort::MemoryInfo& memory() {
    static auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return cpu;
}

// Lets memory be used again as soon as it is free. A plan for the whole run takes more of it.
Ort::SessionOptions lean() {
    Ort::SessionOptions options;
    options.DisableMemPattern();
    return options;
}

// A model of which tensors are fed and read by their names.
struct Model {
    Ort::Session session;

    Model(const Ort::Env& env, const std::string& path)
        : session(env, path.c_str(), lean()) {}

    // Each input is looked for in the feeds, from the first to the last.
    Tensors operator()(const std::vector<const Tensors*>& feeds) {
        Ort::IoBinding binding(session);
        for (const std::string& name : session.GetInputNames()) {
            auto has = [&](const Tensors* tensors) { return tensors->count(name) > 0; };
            auto found = std::find_if(feeds.begin(), feeds.end(), has);
            if (found == feeds.end()) throw std::runtime_error("nothing is fed for " + name);
            binding.BindInput(name.c_str(), (*found)->at(name));
        }
        std::vector<std::string> names = session.GetOutputNames();
        for (const std::string& name : names) binding.BindOutput(name.c_str(), memory());
        session.Run(Ort::RunOptions(), binding);
        std::vector<Ort::Value> values = binding.GetOutputValues();
        Tensors results;
        for (size_t k = 0; k < names.size(); ++k) results[names[k]] = std::move(values[k]);
        return results;
    }

    // Which output is the next value of which input, as the metadata say in JSON.
    std::map<std::string, std::string> state() {
        Ort::AllocatorWithDefaultOptions allocator;
        auto json = session.GetModelMetadata().LookupCustomMetadataMapAllocated("onnxgrad.state",
                                                                                allocator);
        if (!json) throw std::runtime_error("the model has no metadata onnxgrad.state");
        std::string text = json.get();
        std::regex pair(R"re("([^"]*)" *: *"([^"]*)")re");
        std::map<std::string, std::string> names;
        for (std::sregex_iterator it(text.begin(), text.end(), pair), end; it != end; ++it)
            names[(*it)[1]] = (*it)[2];
        return names;
    }
};

bool is_float(const Ort::Value& value) {
    return value.GetTensorTypeAndShapeInfo().GetElementType() ==
           ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;  // what else there is, labels and counts, is int64
}

size_t bytes_of(const Ort::Value& value) {
    return value.GetTensorTypeAndShapeInfo().GetElementCount() * (is_float(value) ? 4 : 8);
}

// Examples `first` to `first + count` of each tensor, in place.
Tensors batch(Tensors& data, int64_t first, int64_t count) {
    Tensors result;
    for (auto& [name, value] : data) {
        auto info = value.GetTensorTypeAndShapeInfo();
        Shape shape = info.GetShape();
        size_t stride = bytes_of(value) / shape[0];
        shape[0] = std::min(count, shape[0] - first);
        char* start = static_cast<char*>(value.GetTensorMutableRawData()) + first * stride;
        result[name] = Ort::Value::CreateTensor(memory(), start, shape[0] * stride, shape.data(),
                                                shape.size(), info.GetElementType());
    }
    return result;
}

int64_t examples(const Tensors& data) {
    return data.begin()->second.GetTensorTypeAndShapeInfo().GetShape()[0];
}

// The share of examples whose class has the largest score.
double accuracy(const Ort::Value& scores, const Ort::Value& labels) {
    Shape shape = scores.GetTensorTypeAndShapeInfo().GetShape();
    const float* row = scores.GetTensorData<float>();
    const int64_t* label = labels.GetTensorData<int64_t>();
    int64_t right = 0;
    for (int64_t n = 0; n < shape[0]; ++n, row += shape[1])
        right += std::max_element(row, row + shape[1]) - row == label[n];
    return double(right) / shape[0];
}

void write_npy(const std::string& path, const Ort::Value& value) {
    std::string header = std::string("{'descr': '") + (is_float(value) ? "<f4" : "<i8") +
                         "', 'fortran_order': False, 'shape': (";
    for (int64_t size : value.GetTensorTypeAndShapeInfo().GetShape())
        header += std::to_string(size) + ",";
    header += ")}\n";
    std::ofstream file(path, std::ios::binary);
    file.write("\x93NUMPY\x01\x00", 8).put(header.size() % 256).put(header.size() / 256);
    file.write(header.data(), header.size());
    file.write(static_cast<const char*>(value.GetTensorRawData()), bytes_of(value));
    if (!file) throw std::runtime_error("cannot write " + path);
}

int main(int count, char** arguments) try {
    if (count != 5) {
        std::fprintf(stderr, "usage: train FOLDER EPOCHS BATCH LEARNING_RATE\n");
        return 2;
    }
    std::string folder = std::string(arguments[1]) + "/";
    int epochs = std::stoi(arguments[2]);
    int64_t size = std::stoll(arguments[3]);
    float rate = std::stof(arguments[4]);

    Ort::Env env(ORT_LOGGING_LEVEL_WARNING);
    Model step(env, folder + "step.onnx"), infer(env, folder + "infer.onnx");
    Tensors state = Model(env, folder + "init.onnx")({});
    Tensors training = Model(env, folder + "training.onnx")({});
    Tensors held_back = Model(env, folder + "held_back.onnx")({});
    const auto state_names = step.state();
    Tensors setting;
    setting["learning_rate"] = Ort::Value::CreateTensor<float>(memory(), &rate, 1, nullptr, 0);

    for (int epoch = 1; epoch <= epochs; ++epoch) {
        double loss = 0;
        int64_t all = examples(training);
        for (int64_t first = 0; first < all; first += size) {
            Tensors examples = batch(training, first, size);
            Tensors results = step({&examples, &setting, &state});
            loss += *results.at("loss").GetTensorData<float>() * std::min(size, all - first) / all;
            for (const auto& [name, next] : state_names) state[name] = std::move(results.at(next));
        }
        Ort::Value scores = std::move(infer({&held_back, &state}).at("logits"));
        std::printf("epoch %d: loss %.6f, accuracy %.4f on held-back examples\n", epoch, loss,
                    accuracy(scores, held_back.at("labels")));
    }
    std::filesystem::create_directory(folder + "trained");
    for (const auto& [name, value] : state) write_npy(folder + "trained/" + name + ".npy", value);
} catch (const std::exception& error) {
    std::fprintf(stderr, "train: %s\n", error.what());
    return 1;
}
