// Codes by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

unsigned code_at(const std::vector<uint8_t>& codes, int64_t i, int levels) {
  const size_t at = static_cast<size_t>(i);
  return are_half_bytes(levels) ? (codes[at / 2] >> (4 * (at % 2))) & 15u : codes[at];
}

void encodes_each_element(std::mt19937& random, DType type, int64_t numel, int skip, int levels,
                          int scheme) {
  Elements x = inputs(random, type, numel, skip, any_kind(random));
  const Range range = any_range(random);
  const int skipped = static_cast<int>(random() % 2);
  std::vector<uint8_t> memory = dirty(code_bytes(numel, levels) + skipped);
  std::vector<uint8_t> inside = dirty(bytes_for(numel));
  float extremes[2] = {1e9f, 1e9f};
  const int status = quantize_per_tensor_cuda(x.data(), type, numel, range.ends, levels, scheme,
                                              memory.data() + skipped, inside.data(), extremes,
                                              workspace().data(), nullptr);
  CHECK(status == (numel == 0 ? kNoElements : kOk));
  if (numel == 0) return;
  const std::vector<uint8_t> codes(memory.begin() + skipped, memory.end());
  const Quantizer q = make_quantizer(range.ends[0], range.ends[1], levels, scheme);
  for (int64_t i = 0; i < numel; ++i) {
    const float code = quantize(x[i], q);
    CHECK(code_at(codes, i, levels) ==
          (code != code ? 0u : static_cast<unsigned>(code - q.code_min)));
  }
  if (are_half_bytes(levels) && numel % 2 != 0) CHECK(code_at(codes, numel, levels) == 0);
  check_inside(x, numel, q, inside);
  CHECK(extremes_of(x, numel).is(extremes));
}

// Of any codes, at any address.
void decodes_each_code(std::mt19937& random, DType type, int64_t numel, int skip, int levels,
                       int scheme) {
  const std::vector<uint8_t> codes = bytes(random, code_bytes(numel, levels) + skip);
  const std::vector<uint8_t> used(codes.begin() + skip, codes.end());
  const Range range = any_range(random);
  const int skip_y = static_cast<int>(random() % 2);
  Elements y(type, numel, skip_y);
  CHECK(dequantize_per_tensor_cuda(codes.data() + skip, numel, range.ends, levels, scheme, y.data(),
                                   type, nullptr) == kOk);
  const Quantizer q = make_quantizer(range.ends[0], range.ends[1], levels, scheme);
  for (int64_t i = 0; i < numel; ++i) {
    const float value = dequantize(static_cast<float>(code_at(used, i, levels)) + q.code_min, q);
    CHECK(same(y[i], rounded_to(type, value)));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t numel, int skip) {
    for (const int levels : {2, 5, 16, 17, 256}) {
      const int chosen = kSchemes[random() % kSchemeCount];
      for (const int scheme : kSchemes) {
        // Every scheme with one number of levels, every number with one of the schemes.
        if ((numel > kManyTiles || levels != 16) && scheme != chosen) continue;
        encodes_each_element(random, type, numel, skip, levels_for(scheme, levels), scheme);
        decodes_each_code(random, type, numel, skip, levels_for(scheme, levels), scheme);
      }
      decodes_each_code(random, type, numel, skip, levels, kLearned);
    }
  });
}

}  // namespace micronet
