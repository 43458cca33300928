// What follows a convolution: cut into units of a few pixels' worth of channels side by side.

#include "include/block.h"

#include "cpu/block_cut.h"

namespace micronet {
namespace {

void pack_into(const uint8_t* codes, int64_t first, int64_t count, uint8_t* packed) {
  int64_t i = 0;
  if (first % 2 != 0 && count > 0) {
    packed[first / 2] = static_cast<uint8_t>(packed[first / 2] | codes[i++] << 4);
  }
  uint8_t* to = packed + (first + i) / 2;
  for (; i + 2 <= count; i += 2) *to++ = static_cast<uint8_t>(codes[i] | codes[i + 1] << 4);
  if (i < count) *to = codes[i];
}

}  // namespace

int64_t block_units(const Block& block) { return Cut(block).units(); }

int block_moments_cpu(const Block& block, double* partial, double* sums,
                      const ParallelFor& parallel) {
  return two_sums<double>(
      block, nullptr, partial, sums, parallel,
      [&](Constants& constants, int64_t first, int64_t count, double* one, double* other) {
        kernels().block_moments(constants.cut.at(first), block.type, count, one, other);
      });
}

int block_codes_cpu(const Block& block, const Coding& coding, uint8_t* codes,
                    const ParallelFor& parallel) {
  const Quantizer q = coding.quantizer();
  if (!are_half_bytes(coding.levels)) {
    return each_run(block, nullptr, parallel,
                    [&](const Constants&, const BlockRun& run, int64_t first) {
                      kernels().block_codes(run, q, codes + first);
                    });
  }
  const auto pack_all = [&](const ParallelFor& threads) {
    const Cut cut(block);
    cut.parallel(threads, [&](int64_t from, int64_t to) {
      Constants constants(cut);
      std::vector<uint8_t> bytes(static_cast<size_t>(cut.width));
      for (int64_t u = from; u < to; ++u) {
        constants.enter(u);
        cut.runs(u, [&](int64_t first, int64_t count) {
          kernels().block_codes(constants.run(first, count), q, bytes.data());
          pack_into(bytes.data(), first, count, codes);
        });
      }
    });
  };
  // Units of an odd number of elements share a byte with the next.
  const ParallelFor serial{[](int64_t count, int64_t, void (*body)(void*, int64_t, int64_t),
                              void* context) { body(context, 0, count); }};
  pack_all(block.channels % 2 == 0 ? parallel : serial);
  return kOk;
}

int block_values_cpu(const Block& block, float* values, const ParallelFor& parallel) {
  return each_run(block, nullptr, parallel,
                  [&](const Constants&, const BlockRun& run, int64_t first) {
                    kernels().block_values(run, values + first);
                  });
}

int block_means_cpu(const Block& block, float* means, const ParallelFor& parallel) {
  const int status = sums_by_image(block, means, parallel,
                                   [](const Constants&, const BlockRun& run, int64_t, float* sums) {
                                     kernels().block_add(run, sums);
                                   });
  const float count = static_cast<float>(block.positions);
  for (int64_t i = 0; i < block.images * block.channels; ++i) means[i] = means[i] / count;
  return status;
}

}  // namespace micronet
