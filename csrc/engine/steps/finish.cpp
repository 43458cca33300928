// Values, codes and means of sums.

#include "engine/steps/finish.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "cpu/parallel.h"
#include "engine/steps/code_table.h"
#include "include/exact.h"

namespace micronet::engine {
namespace {

// The largest argument that integers give, or infinity where there are none.
double reach_of(const std::vector<float>& scale, const std::vector<float>& shift,
                const std::vector<int64_t>& bounds) {
  if (bounds.empty()) return HUGE_VAL;
  double largest = 0.0;
  for (size_t o = 0; o < scale.size(); ++o) {
    const double bound = static_cast<double>(bounds[o]);
    largest = std::max(largest, bound * std::fabs(scale[o]) + std::fabs(shift[o]));
  }
  return largest;
}

}  // namespace

bool Epilogue::apply(NodeFunction of_node) {
  switch (of_node) {
    case NodeFunction::kRelu6:
      most = 6.0f;
      [[fallthrough]];
    case NodeFunction::kRelu:
      function = kRelu;
      return true;
    case NodeFunction::kSwish:
      function = kSwish;
      return true;
    case NodeFunction::kSigmoid:
      function = kSigmoid;
      return true;
    default:
      return false;
  }
}

Finish::Finish(const Epilogue& epilogue, std::vector<float> scale, std::vector<float> shift,
               int64_t positions, const std::vector<int64_t>& bounds)
    : epilogue_(epilogue),
      scale_(std::move(scale)),
      shift_(std::move(shift)),
      positions_(positions),
      channels_(static_cast<int64_t>(scale_.size())) {
  const double reach = reach_of(scale_, shift_, bounds);
  is_near_ = reach < 0.999 * kNearSwish;  // rounding moves an argument by less
  has_finite_arguments_ = reach < FLT_MAX / 2.0;
  if (epilogue_.codes == kNone) return;
  quantizer_ = quantizer_of(epilogue_.quantizer);
  const bool only_codes =
      epilogue_.addend == kNone && epilogue_.values == kNone && epilogue_.means == kNone;
  if (epilogue_.function == kSwish && only_codes && has_finite_arguments_) {
    table_ = swish_codes(quantizer_, {scale_, shift_, bounds});
  }
}

void Finish::Use::take(const SumsTile& tile) {
  const Finish& f = finish_;
  const Epilogue& e = f.epilogue_;
  const int64_t at = tile.pixel * f.channels_ + tile.channel;
  FinishTile part{};
  part.acc = tile.sums;
  part.type = tile.type;
  part.acc_stride = tile.stride;
  part.pixels = tile.pixels;
  part.channels = tile.channels;
  part.scale = f.scale_.data() + tile.channel;
  part.shift = f.shift_.data() + tile.channel;
  part.function = e.function;
  part.most = e.most;
  part.is_near = f.is_near_;
  part.is_finite = f.has_finite_arguments_;
  part.out_stride = f.channels_;
  if (e.addend != kNone) part.addend = run_.at<float>(e.addend) + at;
  if (e.values != kNone) part.values = run_.at<float>(e.values) + at;
  if (e.codes != kNone) {
    part.codes = run_.at<uint8_t>(e.codes) + at;
    part.quantizer = &f.quantizer_;
    part.table = f.table_ ? &*f.table_ : nullptr;
  }
  const bool adds_means = f.in_order(run_);
  if (adds_means) add_means(tile, &part);
  if (!kernels().finish_tile(part)) is_finite_.store(false, std::memory_order_relaxed);
  if (adds_means) give_means(tile);
}

float* Finish::Use::lanes_of(int64_t image) const {
  return run_.at<float>(finish_.epilogue_.lanes) + image * kLanes * finish_.channels_;
}

void Finish::Use::add_means(const SumsTile& tile, FinishTile* part) {
  const int64_t c = finish_.channels_, position = tile.pixel % finish_.positions_;
  part->lanes = lanes_of(tile.pixel / finish_.positions_) + tile.channel;
  part->lane = position;
  part->lane_stride = c;
  if (position != 0) return;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    std::fill_n(part->lanes + lane * c, tile.channels, 0.0f);
  }
}

// Once the last positions of an image are in the lanes.
void Finish::Use::give_means(const SumsTile& tile) const {
  const int64_t c = finish_.channels_, last = tile.pixel + tile.pixels;
  if (last % finish_.positions_ != 0) return;
  const int64_t image = tile.pixel / finish_.positions_;
  float* lanes = lanes_of(image) + tile.channel;
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      float *to = lanes + lane * c, *other = lanes + (half + lane) * c;
      for (int64_t i = 0; i < tile.channels; ++i) to[i] += other[i];
    }
  }
  const float count = static_cast<float>(finish_.positions_);
  float* means = run_.at<float>(finish_.epilogue_.means) + image * c + tile.channel;
  for (int64_t i = 0; i < tile.channels; ++i) means[i] = lanes[i] / count;
}

SumsReader Finish::Use::reader() {
  return {[](void* context, const SumsTile& tile) { static_cast<Use*>(context)->take(tile); }, this,
          finish_.in_order(run_)};
}

void Finish::Use::end() const {
  const Epilogue& e = finish_.epilogue_;
  require_finite(is_finite_, e.reader);
  if (e.means == kNone || finish_.in_order(run_)) return;
  const size_t c = static_cast<size_t>(finish_.channels_);
  const std::vector<float> one(c, 1.0f), nothing(c, kNothing);
  block_means_cpu({run_.at<float>(e.values), kValue, run_.batch, finish_.positions_,
                   finish_.channels_, one.data(), nothing.data(), kIdentity, nullptr},
                  run_.at<float>(e.means), run_.parallel);
}

}  // namespace micronet::engine
