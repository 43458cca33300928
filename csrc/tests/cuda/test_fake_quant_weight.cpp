// Rounding of weights by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// A channel of usual weights, of hostile ones, of zeros, of one value, or of what overflows.
void fill_channel(std::mt19937& random, Elements* w, int64_t first, int64_t each, DType type) {
  const unsigned kind = static_cast<unsigned>(random() % 8);
  const Elements some = inputs(random, type, each, 0, kind == 0 ? kHostile : kExtreme);
  const float constant = chosen(random, {0.0f, -0.0f, 1e-41f, -2.5f, 3.0f, 65504.0f, 3e38f});
  for (int64_t i = 0; i < each; ++i) w->set(first + i, kind == 1 ? constant : some[i]);
}

struct Trial {
  DType type;
  int64_t channels, each;
  int skip, levels, scheme;
  Elements w, w_hat;
  bool masked;
  std::vector<uint8_t> bits, codes;
  std::vector<float> scale, zero_point, steps;

  Trial(std::mt19937& random, DType type, int64_t channels, int64_t each, int skip, int scheme)
      : type(type),
        channels(channels),
        each(each),
        skip(skip),
        levels(levels_for(scheme, kLevels[random() % 4])),
        scheme(scheme),
        w(type, channels * each, skip),
        w_hat(type, channels * each, skip),
        masked(random() % 3 != 0),
        bits(bytes(random, bytes_for(channels * each))),
        codes(dirty(channels * each + skip)),
        scale(static_cast<size_t>(channels), 7.0f),
        zero_point(static_cast<size_t>(channels), 7.0f),
        steps(normals(random, 2 * channels)) {
    for (int64_t c = channels; c < 2 * channels; ++c) {
      steps[static_cast<size_t>(c)] = -static_cast<float>(random() % static_cast<unsigned>(levels));
    }
    for (int64_t c = 0; c < channels; ++c) {
      fill_channel(random, &w, c * each, each, type);
      if (random() % 8 == 0) prune_channel(c);
    }
  }

  void prune_channel(int64_t c) {
    for (int64_t i = c * each; i < (c + 1) * each; ++i) {
      bits[static_cast<size_t>(i / 8)] &= static_cast<uint8_t>(~(1u << (i % 8)));
    }
  }

  Weight weight(void* out, bool wants_scale) {
    return {w.data(),
            masked ? bits.data() : nullptr,
            channels,
            each,
            levels,
            out,
            wants_scale ? scale.data() : nullptr,
            wants_scale ? zero_point.data() : nullptr,
            scheme == kLearned ? steps.data() : nullptr};
  }

  float kept(int64_t i) const { return !masked || bit(bits, i) ? w[i] : 0.0f; }

  Quantizer quantizer(int64_t c) const {
    const float* step = steps.data() + c;
    if (scheme == kLearned) return make_quantizer(step[0], step[channels], levels, scheme);
    Range range{{0.0f, 0.0f}};
    for (int64_t i = c * each; i < (c + 1) * each; ++i) {
      const float v = kept(i);
      if (v != v) return make_quantizer(v, v, levels, scheme);
      range.ends[0] = v < range.ends[0] ? v : range.ends[0];
      range.ends[1] = v > range.ends[1] ? v : range.ends[1];
    }
    return make_quantizer(range.ends[0], range.ends[1], levels, scheme);
  }

  // The scale of a learned step is NaN where a weight of the channel has no code.
  float scale_of(int64_t c, const Quantizer& q) const {
    for (int64_t i = c * each; i < (c + 1) * each && scheme == kLearned; ++i) {
      if (!std::isfinite(kept(i))) return NAN;
    }
    return q.scale;
  }

  // Codes of kSymmetric are less code_min, which the zero point gives back.
  template <typename Test>
  void for_all(bool are_codes, const Test& test) const {
    for (int64_t c = 0; c < channels; ++c) {
      const Quantizer q = quantizer(c);
      CHECK(same(scale[static_cast<size_t>(c)], scale_of(c, q)));
      const float least = are_codes && scheme == kSymmetric ? q.code_min : 0.0f;
      CHECK(same(zero_point[static_cast<size_t>(c)], q.zero_point + least));
      for (int64_t i = c * each; i < (c + 1) * each; ++i) test(i, quantize(kept(i), q) - least, q);
    }
  }
};

void rounds_each_channel_to_its_range(Trial t) {
  CHECK(fake_quant_per_channel_cuda(t.weight(t.w_hat.data(), true), t.type, t.scheme, nullptr) ==
        kOk);
  t.for_all(false, [&](int64_t i, float code, const Quantizer& q) {
    CHECK(same(t.w_hat[i], rounded_to(t.type, dequantize(code, q))));
  });
  Elements again(t.type, t.channels * t.each, t.skip);
  CHECK(fake_quant_per_channel_cuda(t.weight(again.data(), false), t.type, t.scheme, nullptr) ==
        kOk);
  for (int64_t i = 0; i < t.channels * t.each; ++i) CHECK(same(again[i], t.w_hat[i]));
}

void gives_the_codes(Trial t) {
  uint8_t* codes = t.codes.data() + t.skip;
  CHECK(quantize_per_channel_cuda(t.weight(codes, true), t.type, t.scheme, nullptr) == kOk);
  t.for_all(true, [&](int64_t i, float code, const Quantizer&) {
    const int whole = code == code ? static_cast<int>(code) : 0;
    CHECK(codes[i] == static_cast<uint8_t>(whole));
  });
}

void on_shape(std::mt19937& random, DType type, int64_t channels, int64_t each, int skip) {
  const auto scheme = [&] { return kSchemes[random() % kSchemeCount]; };
  rounds_each_channel_to_its_range(Trial(random, type, channels, each, skip, scheme()));
  gives_the_codes(Trial(random, type, channels, each, skip, scheme()));
  gives_the_codes(Trial(random, type, channels, each, skip, kLearned));
}

void refuses_empty_channels() {
  const Weight empty{nullptr, nullptr, 3, 0, 16, nullptr, nullptr, nullptr, nullptr};
  CHECK(fake_quant_per_channel_cuda(empty, kFloat32, kAffine, nullptr) == kNoElements);
  const Weight none{nullptr, nullptr, 0, 9, 16, nullptr, nullptr, nullptr, nullptr};
  CHECK(fake_quant_per_channel_cuda(none, kFloat32, kAffine, nullptr) == kOk);
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t each, int skip) {
    if (each > 0) on_shape(random, type, 3, each, skip);
  });
  // Depthwise rows, several warps and blocks of them, and rows that are read twice.
  for (const DType type : kTypes) {
    on_shape(random, type, 67, 9, 0);
    on_shape(random, type, 33, 25, 0);
    on_shape(random, type, 20, 264, 0);
    on_shape(random, type, 2, 12288, 0);
  }
  refuses_empty_channels();
}

}  // namespace micronet
