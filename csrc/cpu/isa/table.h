// The loops of one instruction set as a table; included after its vector.
#ifndef MICRONET_CPU_ISA_TABLE_H_
#define MICRONET_CPU_ISA_TABLE_H_

#include "cpu/isa/loops.h"
#include "cpu/isa/loops_block.h"
#include "cpu/isa/loops_conv.h"
#include "cpu/isa/loops_depthwise_gradient.h"
#include "cpu/isa/loops_exact.h"
#include "cpu/isa/loops_finish.h"
#include "cpu/isa/loops_learned_step.h"
#include "cpu/isa/loops_sparse.h"
#include "cpu/isa/loops_weight.h"

namespace micronet {
namespace {

// Calls body(pointer to the type that a DType names).
template <typename Body>
inline auto with_type(DType type, const Body& body) {
  if (type == kBFloat16) return body(static_cast<BFloat16*>(nullptr));
  if (type == kFloat16) return body(static_cast<Float16*>(nullptr));
  return body(static_cast<float*>(nullptr));
}

template <typename T>
const T* in(const void* p, T*) {
  return static_cast<const T*>(p);
}
template <typename T>
T* out(void* p, T*) {
  return static_cast<T*>(p);
}

void extremes_any(const void* x, DType type, int64_t numel, Extremes* found) {
  with_type(type, [&](auto* t) { extremes(in(x, t), numel, found); });
}

template <bool kTable, bool kObserved>
void fake_quant_any(const void* x, DType type, int64_t numel, const Rounding& r, void* y,
                    uint8_t* inside, Extremes* found, bool streamed) {
  with_type(type, [&](auto* t) {
    if (streamed) {
      fake_quant<kTable, kObserved, true>(in(x, t), numel, r, out(y, t), inside, found);
    } else {
      fake_quant<kTable, kObserved, false>(in(x, t), numel, r, out(y, t), inside, found);
    }
  });
}

void fake_quant_any(const void* x, DType type, int64_t numel, const Rounding& r, void* y,
                    uint8_t* inside, Extremes* found, bool streamed) {
  const bool table = Vector::kLooksUp && r.is_small;
  const auto chosen = table ? (found ? fake_quant_any<Vector::kLooksUp, true>
                                     : fake_quant_any<Vector::kLooksUp, false>)
                            : (found ? fake_quant_any<false, true> : fake_quant_any<false, false>);
  chosen(x, type, numel, r, y, inside, found, streamed);
}

void encode_any(const void* x, DType type, int64_t numel, const Rounding& r, bool halves,
                uint8_t* codes, uint8_t* inside, Extremes* found) {
  with_type(type, [&](auto* t) {
    if (halves) {
      encode<true>(in(x, t), numel, r, codes, inside, found);
    } else {
      encode<false>(in(x, t), numel, r, codes, inside, found);
    }
  });
}

void decode_any(const uint8_t* codes, int64_t numel, const Rounding& r, bool halves, float* y,
                bool streamed) {
  if (halves) {
    streamed ? decode<true, true>(codes, numel, r, y) : decode<true, false>(codes, numel, r, y);
  } else {
    streamed ? decode<false, true>(codes, numel, r, y) : decode<false, false>(codes, numel, r, y);
  }
}

void select_any(const void* values, DType type, const uint8_t* bits, int64_t numel, void* to,
                bool streamed) {
  with_type(type, [&](auto* t) {
    if (streamed) {
      select<true>(in(values, t), bits, numel, out(to, t));
    } else {
      select<false>(in(values, t), bits, numel, out(to, t));
    }
  });
}

void fake_quant_rows_any(const Weight& weight, DType type, int scheme, int64_t from, int64_t to,
                         bool streamed) {
  with_type(type, [&](auto* t) {
    if (weight.mask != nullptr) {
      fake_quant_rows<true>(weight, scheme, from, to, streamed, t);
    } else {
      fake_quant_rows<false>(weight, scheme, from, to, streamed, t);
    }
  });
}

void codes_rows_any(const Weight& weight, DType type, int scheme, int64_t from, int64_t to) {
  with_type(type, [&](auto* t) {
    if (weight.mask != nullptr) {
      codes_rows<true>(weight, scheme, from, to, t);
    } else {
      codes_rows<false>(weight, scheme, from, to, t);
    }
  });
}

void masked_select_any(const void* values, DType type, Bits mask, int64_t numel, void* to) {
  with_type(type, [&](auto* t) {
    if (mask.bytes != nullptr) {
      masked_select<true>(in(values, t), mask, numel, out(to, t));
    } else {
      masked_select<false>(in(values, t), mask, numel, out(to, t));
    }
  });
}

void learned_fake_quant_any(const LearnedRow& row, DType type, void* y) {
  with_type(type, [&](auto* t) {
    if (row.mask.bytes != nullptr) {
      learned_fake_quant<true>(row, out(y, t));
    } else {
      learned_fake_quant<false>(row, out(y, t));
    }
  });
}

float learned_gradient_any(const LearnedRow& row, DType type, const void* grad, void* grad_x) {
  return with_type(type, [&](auto* t) {
    return row.mask.bytes != nullptr ? learned_gradient<true>(row, in(grad, t), out(grad_x, t))
                                     : learned_gradient<false>(row, in(grad, t), out(grad_x, t));
  });
}

void line_of_floats_any(const PixelLine& line, const void* from, DType type) {
  with_type(type, [&](auto* t) { line_of_floats(line, in(from, t)); });
}

void image_gradient_row_any(const ImageGradientRow& row, DType type, void* to) {
  with_type(type, [&](auto* t) { image_gradient_row(row, out(to, t)); });
}

// A constant expression: no code of an instruction set runs before the set was chosen.
constexpr Kernels table(const char* name) {
  return {name,
          kSkippingShare,
          extremes_any,
          fake_quant_any,
          encode_any,
          decode_any,
          select_any,
          fake_quant_rows_any,
          codes_rows_any,
          masked_select_any,
          learned_fake_quant_any,
          learned_gradient_any,
          sum_block,
          unpack,
          unpack_pairs,
          pair_bytes,
          pair_line,
          dot_tile,
          sum_codes<Dots>,
          depthwise_row,
          interleave_pixels,
          sparse_tile,
          line_of_floats_any,
          line_of_codes,
          image_gradient_row_any,
          weight_gradient_row,
          block_floats,
          block_moments,
          block_extremes,
          block_ends,
          block_codes,
          block_values,
          block_add,
          block_gradient_sums,
          block_gradient_kept,
          norm_gradient,
          block_gradient,
          block_gate_gradient,
          block_step_sums,
          finish_tile,
          fma_tile,
          dot_lanes_of<float>,
          dot_lanes_of<int8_t>,
          widen,
          copy};
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_TABLE_H_
