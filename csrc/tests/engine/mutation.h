// Packed files that were changed: their bytes, or their document and tensors under a checksum that
// fits.
#ifndef MICRONET_TESTS_ENGINE_MUTATION_H_
#define MICRONET_TESTS_ENGINE_MUTATION_H_

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "tests/engine/sample.h"

namespace micronet::engine {

using Tokens = std::vector<std::string>;

// Texts with their quotes, numbers and words, and single signs.
inline Tokens tokens_of(const std::string& text) {
  Tokens found;
  for (size_t at = 0, end = 0; at < text.size(); at = end) {
    end = at + 1;
    if (text[at] == '"') {
      end = std::min(text.find('"', end), text.size() - 1) + 1;
    } else if (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '-') {
      while (end < text.size() && std::isalnum(static_cast<unsigned char>(text[end]))) ++end;
    }
    found.push_back(text.substr(at, end - at));
  }
  return found;
}

inline constexpr const char* kOddNumbers[] = {
    "0",        "1",          "2",     "3",     "4",          "5",
    "7",        "8",          "15",    "16",    "17",         "31",
    "32",       "33",         "48",    "63",    "64",         "100",
    "127",      "128",        "129",   "255",   "256",        "257",
    "1024",     "4096",       "65535", "65536", "-1",         "1.5",
    "1e9",      "-0",         "1e999", "16384", "46341",      "100000",
    "16777217", "2147483647", "null",  "true",  "\"\"",       "[]",
    "[1]",      "[2,2]",      "{}",    "\"x\"", "2147483648", "9223372036854775807"};
inline constexpr const char* kWords[] = {
    "\"conv\"",       "\"linear\"",  "\"quantize\"",     "\"table\"",      "\"activation\"",
    "\"pool\"",       "\"gate\"",    "\"add\"",          "\"concat\"",     "\"reshape\"",
    "\"slice\"",      "\"pad\"",     "\"mean\"",         "\"max\"",        "\"relu\"",
    "\"swish\"",      "\"sigmoid\"", "\"hardswish\"",    "\"integer\"",    "\"scaled\"",
    "\"float\"",      "\"dense\"",   "\"bit mask\"",     "\"block mask\"", "\"weight_of\"",
    "\"norm_scale\"", "\"bias\"",    "\"channels_last\""};

class Mutation {
 public:
  explicit Mutation(std::mt19937& random) : random_(random) {}

  // A file that comes of a sample.
  std::vector<uint8_t> of(Sample sample) {
    const unsigned way = static_cast<unsigned>(random_() % 16), times = 1 + below(3);
    if (way == 0) return sample.file();
    if (way == 1) return change_file(sample);
    if (way == 2) return change_header(sample);
    for (unsigned i = 0; i < times; ++i) {
      if (way == 3) {
        change_text(&sample.document);
      } else if (way < 12) {
        change_tokens(&sample.document);
      } else {
        change_tensor(&sample);
      }
    }
    if (way == 15) change_tokens(&sample.document);
    return sample.file();
  }

 private:
  unsigned below(size_t count) { return static_cast<unsigned>(random_() % count); }
  uint8_t byte() { return static_cast<uint8_t>(random_()); }

  std::vector<uint8_t> change_file(const Sample& sample) {
    std::vector<uint8_t> file = sample.file();
    for (unsigned i = 1 + below(4); i > 0; --i) file[below(file.size())] = byte();
    if (below(4) == 0) file.resize(below(file.size()));
    return file;
  }

  std::vector<uint8_t> change_header(const Sample& sample) {
    std::string header = sample.header();
    const size_t from = header.find("\"}\"") == header.npos ? 0 : header.rfind("\"}\"");
    // Mostly behind the document: names, types, shapes and offsets of tensors.
    const size_t first = below(4) == 0 ? 0 : from;
    for (unsigned i = 1 + below(3); i > 0; --i) {
      const size_t at = first + below(header.size() - first);
      header.replace(at, below(3), kOddNumbers[below(std::size(kOddNumbers))]);
    }
    return Sample::file_of(header, sample.data());
  }

  void change_text(std::string* text) {
    const size_t at = below(text->size());
    text->replace(at, below(5),
                  below(2) == 0 ? kOddNumbers[below(std::size(kOddNumbers))]
                                : std::string(1, static_cast<char>(random_())));
  }

  // Most changes leave JSON, so that what reads it is reached.
  void change_tokens(std::string* text) {
    Tokens tokens = tokens_of(*text);
    const size_t at = below(tokens.size());
    const auto like = [&](size_t i) {
      return std::isdigit(static_cast<unsigned char>(tokens[i][0])) ? '0' : tokens[i][0];
    };
    // The next token of the kind that is wanted.
    const auto next = [&](size_t from, char kind) {
      for (size_t i = 0; i < tokens.size(); ++i) {
        const size_t found = (from + i) % tokens.size();
        if (like(found) == kind) return found;
      }
      return from;
    };
    const size_t number = next(at, '0'), word = next(at, '"');
    const unsigned way = below(16);
    if (way < 3) {
      tokens[number] = kOddNumbers[below(std::size(kOddNumbers))];
    } else if (way < 9) {
      tokens[number] =
          std::to_string(std::strtoull(tokens[number].c_str(), nullptr, 10) + below(5) - 2);
    } else if (way < 11) {
      std::swap(tokens[number], tokens[next(below(tokens.size()), '0')]);
    } else if (way == 11) {
      tokens[word] = kWords[below(std::size(kWords))];
    } else if (way == 12) {
      tokens[word] = tokens[next(below(tokens.size()), '"')];
    } else if (way < 15) {
      move_object(&tokens, next(at, '{'));
    } else {
      tokens[at] = below(2) == 0 ? "" : tokens[below(tokens.size())];
    }
    text->clear();
    for (const std::string& token : tokens) *text += token;
  }

  // Takes an object of a list out, or puts it in once more, with the comma behind it.
  void move_object(Tokens* tokens, size_t at) {
    size_t end = at;
    while (end < tokens->size() && (*tokens)[end] != "}") ++end;
    if (end + 2 > tokens->size() || (*tokens)[end + 1] != ",") return;
    const auto first = tokens->begin() + static_cast<std::ptrdiff_t>(at);
    const auto last = tokens->begin() + static_cast<std::ptrdiff_t>(end + 2);
    if (below(2) == 0) {
      tokens->erase(first, last);
    } else {
      const Tokens copy(first, last);
      tokens->insert(first, copy.begin(), copy.end());
    }
  }

  void change_tensor(Sample* sample) {
    if (sample->tensors.empty()) return;
    auto tensor = sample->tensors.begin();
    std::advance(tensor, below(sample->tensors.size()));
    std::vector<uint8_t>& bytes = tensor->second.bytes;
    const unsigned way = below(8);
    if (way == 0) {
      const size_t size = below(bytes.size() + 8);
      bytes.resize(tensor->second.is_float ? size / 4 * 4 : size);
    } else if (way == 1) {
      sample->tensors.erase(tensor);
    } else if (way == 2) {
      tensor->second.is_float = !tensor->second.is_float && bytes.size() % 4 == 0;
    } else if (!bytes.empty() && tensor->second.is_float) {
      constexpr float kOdd[] = {0.0f,   -0.0f,    1e-45f, -1e-38f,   3.4e38f,
                                -3e38f, INFINITY, NAN,    0x1p-126f, 1e20f};
      std::memcpy(bytes.data() + below(bytes.size() / 4) * size_t{4}, kOdd + below(std::size(kOdd)),
                  4);
    } else if (!bytes.empty()) {
      bytes[below(bytes.size())] = byte();
    }
  }

  std::mt19937& random_;
};

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_MUTATION_H_
