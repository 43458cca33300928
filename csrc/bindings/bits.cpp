// Codes, packed bits and counts as functions of tensors.

#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

Tensor pack_codes(const Tensor& codes, int64_t levels) {
  check_bytes(codes, codes.numel());
  const int l = static_cast<int>(levels);
  const Tensor packed = output_flat(codes, packed_bytes(codes.numel(), l), at::kByte);
  const uint8_t* in = bytes_of(codes);
  uint8_t* out = bytes_of_output(packed);
  launch_for(
      codes, [&] { return pack_codes_cpu(in, codes.numel(), l, out, kParallel); },
      [&](auto stream) { return pack_codes_cuda(in, codes.numel(), l, out, stream); });
  return packed;
}

Tensor unpack_codes(const Tensor& packed, int64_t numel, int64_t levels) {
  const int l = static_cast<int>(levels);
  check_bytes(packed, packed_bytes(numel, l));
  const Tensor codes = output_flat(packed, numel, at::kByte);
  const uint8_t* in = bytes_of(packed);
  uint8_t* out = bytes_of_output(codes);
  launch_for(
      packed, [&] { return unpack_codes_cpu(in, numel, l, out, kParallel); },
      [&](auto stream) { return unpack_codes_cuda(in, numel, l, out, stream); });
  return codes;
}

Tensor pack_bits(const Tensor& flags) {
  check_state(flags, at::kBool, flags.numel());
  const Tensor bits = output_bits(flags);
  const uint8_t* in = bytes_of(flags);
  uint8_t* out = bytes_of_output(bits);
  launch_for(
      flags, [&] { return pack_bits_cpu(in, flags.numel(), out, kParallel); },
      [&](auto stream) { return pack_bits_cuda(in, flags.numel(), out, stream); });
  return bits;
}

Tensor unpack_bits(const Tensor& bits, int64_t numel) {
  check_bytes(bits, bytes_for(numel));
  const Tensor flags = output_flat(bits, numel, at::kBool);
  const uint8_t* in = bytes_of(bits);
  uint8_t* out = bytes_of_output(flags);
  launch_for(
      bits, [&] { return unpack_bits_cpu(in, numel, out, kParallel); },
      [&](auto stream) { return unpack_bits_cuda(in, numel, out, stream); });
  return flags;
}

Tensor count_bits(const Tensor& bits, int64_t numel) {
  check_bytes(bits, bytes_for(numel));
  const Tensor count = at::empty({}, bits.options().dtype(at::kLong));
  const uint8_t* in = bytes_of(bits);
  int64_t* out = count.mutable_data_ptr<int64_t>();
  launch_for(
      bits, [&] { return count_bits_cpu(in, numel, out); },
      [&](auto stream) { return count_bits_cuda(in, numel, out, stream); });
  return count;
}

// Calls body(offsets) with the workspace of a compaction and looks at the count that it found.
template <typename Body>
int with_offsets(const Tensor& x, int64_t numel, int64_t count, const Body& body) {
  const int64_t blocks = (numel + kCompactBlock - 1) / kCompactBlock;
  const Tensor offsets = at::zeros({blocks + 1}, x.options().dtype(at::kLong));
  const int status = body(offsets.mutable_data_ptr<int64_t>());
  if (status != kOk) return status;
  return offsets[blocks].item<int64_t>() == count ? status : static_cast<int>(kBadCount);
}

// Moves elements by bits of numel, of which `count` are 1, to a tensor of `size`; the launchers
// take (from, width, bits, numel, count, to), that on CUDA offsets and a stream as well.
template <typename OnCpu, typename OnCuda>
Tensor moved_by_bits(const Tensor& from, const Tensor& bits, int64_t numel, int64_t count,
                     int64_t size, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  check_bytes(bits, bytes_for(numel));
  TORCH_CHECK(from.is_contiguous(), "expected contiguous values");
  const Tensor to = output_flat(from, size, from.scalar_type());
  const int width = static_cast<int>(from.element_size());
  const void* in = from.const_data_ptr();
  const uint8_t* b = bytes_of(bits);
  void* out = to.mutable_data_ptr();
  launch_for(
      from, [&] { return on_cpu(in, width, b, numel, count, out); },
      [&](auto stream) {
        return with_offsets(from, numel, count, [&](int64_t* offsets) {
          return on_cuda(in, width, b, numel, count, out, offsets, stream);
        });
      });
  return to;
}

Tensor compact_by_bits(const Tensor& values, const Tensor& bits, int64_t count) {
  return moved_by_bits(values, bits, values.numel(), count, count, compact_by_bits_cpu,
                       [](auto... args) { return compact_by_bits_cuda(args...); });
}

Tensor expand_by_bits(const Tensor& kept, const Tensor& bits, int64_t numel) {
  return moved_by_bits(kept, bits, numel, kept.numel(), numel, expand_by_bits_cpu,
                       [](auto... args) { return expand_by_bits_cuda(args...); });
}

Tensor counts_of(const Tensor& w, int64_t channels) {
  const DType type = check_floats(w);
  const Tensor counts = at::empty({channels}, w.options().dtype(at::kLong).requires_grad(false));
  const int64_t each = channels > 0 ? w.numel() / channels : 0;
  const void* in = w.const_data_ptr();
  int64_t* out = counts.mutable_data_ptr<int64_t>();
  launch_for(
      w, [&] { return count_nonzero_cpu(in, type, channels, each, out, kParallel); },
      [&](auto stream) { return count_nonzero_cuda(in, type, channels, each, out, stream); });
  return counts;
}

Tensor count_nonzero(const Tensor& w) { return counts_of(w, 1).reshape({}); }

Tensor count_nonzero_per_channel(const Tensor& w) { return counts_of(w, w.size(0)); }

}  // namespace

void add_bits_operators(Operators& operators) {
  ADD_OPERATORS(operators, pack_codes, unpack_codes, pack_bits, unpack_bits, count_bits,
                compact_by_bits, expand_by_bits, count_nonzero, count_nonzero_per_channel);
}

}  // namespace micronet
