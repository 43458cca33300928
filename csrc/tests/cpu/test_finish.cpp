// What follows sums, against a loop over the definition; float sums in their order.

#include "cpu/kernels.h"
#include "include/exact.h"
#include "tests/check.h"

namespace micronet {
namespace {

float value_of(Function function, float z) {
  return function == kSwish     ? swish(z)
         : function == kSigmoid ? sigmoid(z)
         : function == kRelu    ? activate<kRelu>(z)
                                : z;
}

// Sums, constants and what is wanted of them; bits of `wanted` choose.
struct Finishing {
  enum { kAddend = 1, kValues = 2, kCodes = 4, kMeans = 8, kAll = 16 };

  int wanted;
  Function function;
  float most;      // that a ReLU gives
  bool is_finite;  // what the tile is told of its arguments, which are
  int64_t pixels, channels, stride, first;
  std::vector<float> scale, shift, addend, floats, sums;
  std::vector<int32_t> wholes;
  std::vector<int16_t> shorts;
  Quantizer quantizer;

  Finishing(std::mt19937& random, Accumulator type, Function f, int all, int64_t p, int64_t c)
      : wanted(all),
        function(f),
        most(random() % 2 == 0 ? 1.25f : INFINITY),
        is_finite(random() % 2 == 0),
        pixels(p),
        channels(c),
        stride(c + 3),
        first(static_cast<int64_t>(random() % 5)),
        scale(normals(random, c)),
        shift(normals(random, c)),
        addend(normals(random, p * stride)),
        floats(normals(random, p * stride)),
        sums(normals(random, kLanes * stride)),
        quantizer(random() % 2 == 0 ? learned_quantizer(0.13f, -3.0f, 16)
                                    : make_quantizer(-0.3f, 1.9f, 256, kAffine)) {
    for (float& x : floats) {
      const int whole = static_cast<int>(random() % 4001) - 2000;
      wholes.push_back(whole), shorts.push_back(static_cast<int16_t>(whole));
      if (type != kValue) x = static_cast<float>(whole);
    }
    if (type == kValue) return;
    for (float& of : scale) of *= 0.01f;
  }

  FinishTile tile(Accumulator type) const {
    FinishTile t{};
    t.acc = type == kInt16   ? static_cast<const void*>(shorts.data())
            : type == kInt32 ? static_cast<const void*>(wholes.data())
                             : floats.data();
    t.type = type, t.acc_stride = t.out_stride = stride, t.pixels = pixels, t.channels = channels;
    t.scale = scale.data(), t.shift = shift.data(), t.function = function;
    t.most = most;
    t.is_finite = is_finite;
    if (wanted & kAddend) t.addend = addend.data();
    return t;
  }
};

void all_is_that_of_a_loop(std::mt19937& random, Accumulator type, Function function, int wanted,
                           int64_t pixels, int64_t channels) {
  const Finishing f(random, type, function, wanted, pixels, channels);
  FinishTile tile = f.tile(type);
  const size_t size = static_cast<size_t>(pixels * f.stride);
  std::vector<float> values(size, -7.0f), lanes = f.sums, expected_lanes = f.sums;
  std::vector<uint8_t> codes(size, 99);
  if (wanted & Finishing::kValues) tile.values = values.data();
  if (wanted & Finishing::kCodes) tile.codes = codes.data(), tile.quantizer = &f.quantizer;
  if (wanted & Finishing::kMeans) tile.lanes = lanes.data(), tile.lane_stride = f.stride;
  tile.lane = f.first;
  CHECK(kernels().finish_tile(tile));
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < f.stride; ++c) {
      const size_t at = static_cast<size_t>(p * f.stride + c), k = static_cast<size_t>(c);
      if (c >= channels) {
        CHECK(same(values[at], -7.0f) && codes[at] == 99);
        continue;
      }
      float v = value_of(function, fmaf(f.floats[at], f.scale[k], f.shift[k]));
      if (function == kRelu && v > f.most) v = f.most;
      if (wanted & Finishing::kAddend) v = v + f.addend[at];
      if (wanted & Finishing::kValues) CHECK(same(values[at], v));
      if (wanted & Finishing::kCodes) {
        CHECK(codes[at] == static_cast<uint8_t>(quantize(v, f.quantizer) - f.quantizer.code_min));
      }
      if (wanted & Finishing::kMeans) {
        expected_lanes[static_cast<size_t>((f.first + p) % kLanes * f.stride + c)] += v;
      }
    }
  }
  for (size_t i = 0; i < lanes.size(); ++i) CHECK(same(lanes[i], expected_lanes[i]));
}

// A value that is not finite is told where it should have a code, wherever it stands.
void no_code_of_infinity(std::mt19937& random) {
  for (const float bad : {INFINITY, -INFINITY, std::numeric_limits<float>::quiet_NaN()}) {
    for (const int64_t channels : {1, 16, 37}) {
      Finishing f(random, kValue, kIdentity, Finishing::kCodes, 3, channels);
      std::vector<uint8_t> codes(static_cast<size_t>(3 * f.stride));
      FinishTile tile = f.tile(kValue);
      tile.codes = codes.data(), tile.quantizer = &f.quantizer;
      CHECK(kernels().finish_tile(tile));
      f.floats[static_cast<size_t>(2 * f.stride + channels - 1)] = bad;
      CHECK(!kernels().finish_tile(tile));
    }
  }
}

void fmas_are_in_their_order(std::mt19937& random, int64_t pixels, int64_t depth, int64_t outputs) {
  const int64_t pitch = pixels + 2, stride = outputs + 1;
  const std::vector<float> x = normals(random, depth * pitch), w = normals(random, depth * outputs);
  std::vector<float> out(static_cast<size_t>(pixels * stride), -7.0f);
  kernels().fma_tile({x.data(), pitch, pixels, depth, w.data(), outputs, out.data(), stride});
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t o = 0; o < stride; ++o) {
      float sum = o < outputs ? 0.0f : -7.0f;
      for (int64_t k = 0; k < depth && o < outputs; ++k) {
        sum = fmaf(x[static_cast<size_t>(k * pitch + p)], w[static_cast<size_t>(k * outputs + o)],
                   sum);
      }
      CHECK(same(out[static_cast<size_t>(p * stride + o)], sum));
    }
  }
}

// Weights of a byte give what the same weights in float give.
void bytes_are_floats(std::mt19937& random, int64_t depth, int64_t rows) {
  std::vector<int8_t> bytes(static_cast<size_t>(rows * depth));
  for (int8_t& byte : bytes) byte = static_cast<int8_t>(random() % 256 - 128);
  const std::vector<float> floats(bytes.begin(), bytes.end()), x = normals(random, 2 * depth);
  const std::vector<float> ratio = normals(random, rows), bias = normals(random, rows);
  for (const ParallelFor& parallel : kRunners) {
    std::vector<float> one(static_cast<size_t>(2 * rows)), other = one;
    CHECK(linear_deterministic_cpu(x.data(), floats.data(), ratio.data(), bias.data(), 2, depth,
                                   rows, one.data(), parallel) == kOk);
    CHECK(linear_bytes_deterministic_cpu(x.data(), bytes.data(), ratio.data(), bias.data(), 2,
                                         depth, rows, other.data(), parallel) == kOk);
    CHECK(one == other);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_instruction_set([&] {
    for (const Accumulator type : {kInt16, kInt32, kValue}) {
      for (const Function function : {kIdentity, kRelu, kSwish, kSigmoid}) {
        for (int wanted = 0; wanted < Finishing::kAll; ++wanted) {
          const int64_t channels[] = {1, 16, 24, 40, 300};
          all_is_that_of_a_loop(random, type, function, wanted, 1 + wanted % 5,
                                channels[random() % 5]);
        }
      }
    }
    // Nothing but codes, of whole vectors and of fours of them.
    for (int round = 0; round < 64; ++round) {
      const int64_t channels[] = {48, 64, 67, 128, 200};
      all_is_that_of_a_loop(random, round % 2 == 0 ? kInt16 : kInt32,
                            round % 4 < 2 ? kIdentity : kRelu, Finishing::kCodes, 1 + round % 3,
                            channels[random() % 5]);
    }
    no_code_of_infinity(random);
    for (const int64_t outputs : {1, 16, 17, 33, 70}) {
      fmas_are_in_their_order(random, 1, 9, outputs);
      fmas_are_in_their_order(random, 29, 27, outputs);
    }
    for (const int64_t depth : {1, 16, 33, 70}) bytes_are_floats(random, depth, 67);
  });
}

}  // namespace micronet
