// A packed file of every kind of node, made by hand: tests change it.
#ifndef MICRONET_TESTS_ENGINE_SAMPLE_H_
#define MICRONET_TESTS_ENGINE_SAMPLE_H_

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "engine/format/sha256.h"
#include "tests/check.h"

namespace micronet::engine {

struct SampleTensor {
  bool is_float;
  std::vector<uint8_t> bytes;
};

// The text of a document up to its checksum, and tensors.
struct Sample {
  std::string document;
  std::map<std::string, SampleTensor> tensors;

  std::vector<uint8_t> data() const {
    std::vector<uint8_t> all;
    for (const bool is_float : {true, false}) {
      for (const auto& [name, tensor] : tensors) {
        if (tensor.is_float == is_float)
          all.insert(all.end(), tensor.bytes.begin(), tensor.bytes.end());
      }
    }
    return all;
  }

  // The header without its length, with the checksum that fits.
  std::string header() const {
    std::string text = "{\"__metadata__\":{\"micronet_packed\":\"";
    for (const char c : document + ",\"sha256\":\"" + sha256(data()) + "\"}") {
      if (c == '"' || c == '\\') text.push_back('\\');
      text.push_back(c);
    }
    text += "\"}";
    size_t begin = 0;
    for (const bool is_float : {true, false}) {
      for (const auto& [name, tensor] : tensors) {
        if (tensor.is_float != is_float) continue;
        const size_t size = tensor.bytes.size(), end = begin + size;
        text += ",\"" + name + "\":{\"data_offsets\":[" + std::to_string(begin) + "," +
                std::to_string(end) + "],\"dtype\":\"" + (is_float ? "F32" : "U8") +
                "\",\"shape\":[" + std::to_string(is_float ? size / 4 : size) + "]}";
        begin = end;
      }
    }
    text += "}";
    return text + std::string((8 - text.size() % 8) % 8, ' ');
  }

  static std::vector<uint8_t> file_of(const std::string& header, const std::vector<uint8_t>& data) {
    std::vector<uint8_t> file(8 + header.size() + data.size());
    for (size_t i = 0; i < 8; ++i) file[i] = static_cast<uint8_t>(header.size() >> (8 * i));
    std::copy(data.begin(), data.end(), std::copy(header.begin(), header.end(), file.begin() + 8));
    return file;
  }

  std::vector<uint8_t> file() const { return file_of(header(), data()); }

  void add_floats(const std::string& name, const std::vector<float>& values) {
    SampleTensor& tensor = tensors[name] = {true, std::vector<uint8_t>(4 * values.size())};
    if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  }

  // Groups of `size` codes in `bits` bits.
  void add_codes(const std::string& name, const std::vector<uint8_t>& codes, int levels, int size,
                 int bits) {
    const size_t groups =
        (codes.size() + static_cast<size_t>(size) - 1) / static_cast<size_t>(size);
    SampleTensor& tensor =
        tensors[name] = {false, std::vector<uint8_t>((groups * static_cast<size_t>(bits) + 7) / 8)};
    for (size_t group = 0; group < groups; ++group) {
      int word = 0;
      for (size_t i = static_cast<size_t>(size); i-- > 0;) {
        const size_t at = group * static_cast<size_t>(size) + i;
        word = word * levels + (at < codes.size() ? codes[at] : 0);
      }
      for (int b = 0; b < bits; ++b) {
        const size_t at = group * static_cast<size_t>(bits) + static_cast<size_t>(b);
        tensor.bytes[at / 8] =
            static_cast<uint8_t>(tensor.bytes[at / 8] | (word >> b & 1) << at % 8);
      }
    }
  }
};

inline std::vector<uint8_t> random_codes(std::mt19937& random, size_t count, int levels) {
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % static_cast<unsigned>(levels));
  return codes;
}

inline std::vector<float> random_scales(std::mt19937& random, size_t count) {
  std::vector<float> scales(count);
  for (float& scale : scales) scale = 0.05f + static_cast<float>(random() % 64) / 256.0f;
  return scales;
}

inline constexpr char kSampleDocument[] =
    "{\"about\":{\"arch\":\"sample\",\"classes\":[\"cat\",\"dog\",\"\xc3\xa9\"],"
    "\"mean\":[0.5,0.25,0],\"std\":[1,0.5,2e-1]},\"format\":\"micronet-packed\",\"version\":1,"
    "\"input\":[3,6,5],\"output\":24,\"quantization_config\":{},\"layers\":{"
    "\"a\":{\"bias\":true,\"dilation\":[1,1],\"groups\":1,\"layout\":\"bit mask\",\"levels\":5,"
    "\"packing\":[3,7],\"padding\":[1,1,1,1],\"shape\":[4,3,3,3],\"stride\":[1,1],"
    "\"sums\":\"integer\",\"values\":36},"
    "\"b\":{\"block\":[2,9],\"channels_last\":true,\"dilation\":[1,1],\"groups\":4,"
    "\"layout\":\"block mask\",\"levels\":16,\"packing\":[1,4],\"padding\":[1,1,1,1],"
    "\"shape\":[4,1,3,3],\"stride\":[1,1],\"sums\":\"integer\",\"values\":18},"
    "\"c\":{\"bias\":true,\"dilation\":[1,1],\"groups\":1,\"layout\":\"dense\",\"norm_scale\":true,"
    "\"padding\":[1,1,1,1],\"shape\":[4,3,3,3],\"stride\":[1,1],\"sums\":\"float\",\"values\":108},"
    "\"d\":{\"bias\":true,\"layout\":\"dense\",\"levels\":5,\"packing\":[1,3],\"shape\":[3,48],"
    "\"sums\":\"scaled\",\"values\":144},"
    "\"g\":{\"bias\":true,\"dilation\":[1,1],\"groups\":1,\"layout\":\"dense\",\"levels\":9,"
    "\"packing\":[1,4],\"padding\":[1,0,0,2],\"shape\":[3,3,2,2],\"stride\":[2,1],"
    "\"sums\":\"integer\",\"values\":36}},\"nodes\":["
    "{\"kind\":\"input\"},"
    "{\"inputs\":[0],\"kind\":\"quantize\",\"levels\":16,\"name\":\"image\"},"
    "{\"inputs\":[1],\"kind\":\"conv\",\"layer\":\"a\"},"
    "{\"exact\":true,\"function\":\"swish\",\"inputs\":[2],\"kind\":\"activation\"},"
    "{\"inputs\":[3],\"kind\":\"quantize\",\"levels\":7,\"name\":\"q\"},"
    "{\"inputs\":[4],\"kind\":\"table\",\"levels\":16,\"name\":\"t\"},"
    "{\"inputs\":[5],\"kind\":\"conv\",\"layer\":\"b\"},"
    "{\"exact\":true,\"function\":\"relu\",\"inputs\":[6],\"kind\":\"activation\"},"
    "{\"exact\":true,\"function\":\"mean\",\"inputs\":[7],\"kind\":\"pool\"},"
    "{\"exact\":true,\"function\":\"sigmoid\",\"inputs\":[8],\"kind\":\"activation\"},"
    "{\"inputs\":[7,9],\"kind\":\"gate\"},"
    "{\"inputs\":[0],\"kind\":\"conv\",\"layer\":\"c\"},"
    "{\"inputs\":[10,11],\"kind\":\"add\"},"
    "{\"inputs\":[12],\"kind\":\"slice\",\"start\":[0,0,0],\"step\":[2,1,1],\"stop\":[4,6,5]},"
    "{\"after\":[1,0,0],\"before\":[1,0,0],\"inputs\":[13],\"kind\":\"pad\"},"
    "{\"inputs\":[12,14],\"kind\":\"concat\"},"
    "{\"dilation\":[1,1],\"exact\":true,\"function\":\"max\",\"inputs\":[15],\"kernel\":[2,2],"
    "\"kind\":\"pool\",\"padding\":[0,0],\"stride\":[2,2]},"
    "{\"inputs\":[16],\"kind\":\"reshape\",\"shape\":[48]},"
    "{\"inputs\":[17],\"kind\":\"linear\",\"layer\":\"d\"},"
    "{\"exact\":true,\"function\":\"hardswish\",\"inputs\":[18],\"kind\":\"activation\"},"
    "{\"inputs\":[0],\"kind\":\"pixels\",\"mean\":[0.5,0.25,0.0],\"name\":\"p\",\"std\":[1,0.5,0.2]"
    "},"
    "{\"inputs\":[20],\"kind\":\"conv\",\"layer\":\"g\"},"
    "{\"exact\":true,\"function\":\"mean\",\"inputs\":[21],\"kind\":\"pool\"},"
    "{\"inputs\":[22],\"kind\":\"reshape\",\"shape\":[3]},"
    "{\"inputs\":[19,23],\"kind\":\"add\"}]";

inline Sample sample(std::mt19937& random) {
  Sample s;
  s.document = kSampleDocument;
  s.add_floats("image_scale", {4.0f}), s.add_codes("image_zero_point", {8}, 16, 1, 4);
  s.add_floats("q_scale", {1.5f}), s.add_codes("q_zero_point", {2}, 7, 1, 3);
  s.add_floats("t_scale", {3.0f}), s.add_codes("t_zero_point", {5}, 16, 1, 4);
  s.add_codes("t_table", random_codes(random, 7, 16), 16, 1, 4);
  std::vector<uint8_t> mask(108, 0);
  std::fill_n(mask.begin(), 36, uint8_t{1});
  std::shuffle(mask.begin(), mask.end(), random);
  s.add_codes("a.weight_mask", mask, 2, 1, 1);
  s.add_codes("a.weight_packed", random_codes(random, 36, 5), 5, 3, 7);
  s.add_floats("a.weight_scale", random_scales(random, 4));
  s.add_codes("a.weight_zero_point", random_codes(random, 4, 5), 5, 1, 3);
  s.add_floats("a.bias", normals(random, 4));
  s.add_codes("b.weight_mask", {0, 1}, 2, 1, 1);
  s.add_codes("b.weight_packed", random_codes(random, 18, 16), 16, 1, 4);
  s.add_floats("b.weight_scale", random_scales(random, 4));
  s.add_codes("b.weight_zero_point", random_codes(random, 4, 16), 16, 1, 4);
  s.add_floats("c.weight", normals(random, 108));
  s.add_floats("c.norm_scale", random_scales(random, 4));
  s.add_floats("c.bias", normals(random, 4));
  s.add_codes("d.weight_packed", random_codes(random, 144, 5), 5, 1, 3);
  s.add_floats("d.weight_scale", random_scales(random, 3));
  s.add_codes("d.weight_zero_point", {0, 2, 4}, 5, 1, 3);
  s.add_floats("d.bias", normals(random, 3));
  s.add_floats("p_scale", {255.0f / (255.0f / 255.0f)});
  s.add_codes("p_zero_point", {128, 64, 0}, 256, 1, 8);
  s.add_codes("g.weight_packed", random_codes(random, 36, 9), 9, 1, 4);
  s.add_floats("g.weight_scale", random_scales(random, 3));
  s.add_codes("g.weight_zero_point", random_codes(random, 3, 9), 9, 1, 4);
  s.add_floats("g.bias", normals(random, 3));
  return s;
}

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_SAMPLE_H_
