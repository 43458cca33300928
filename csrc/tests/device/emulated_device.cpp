// A device of torch's that is the emulator, for tests and tables on machines without a GPU.
//
// Its tensors lie in the host's memory. micronet's operators run the CUDA kernels on them, and
// every other operator is the CPU's: what differs from the CPU is a fault of a kernel, or of what
// calls it. Built into the module by -DMICRONET_EMULATED_DEVICE=ON; torch calls the device
// "privateuseone".

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <cstring>

namespace {

using at::IntArrayRef;
using at::Tensor;
using std::optional;

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
const c10::Device kDevice(kType, 0);

// Memory ------------------------------------------------------------------------------------------

// What nobody has written is NaN in every float, and the largest of codes.
constexpr int kUnwritten = 0xff;

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) std::memset(data, kUnwritten, bytes);
    return {data, data, &c10::free_cpu, kDevice};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(kType, &memory)

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(IntArrayRef size, optional<at::ScalarType> dtype, optional<at::Layout>,
             optional<at::Device>, optional<bool>, optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, optional<at::ScalarType> dtype,
                     optional<at::Layout>, optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, kKeys,
                                           c10::dtype_or_default(dtype));
}

// The same memory as a tensor of the CPU, while `x` lives.
Tensor on_the_host(const Tensor& x) {
  if (x.is_cpu()) return x;
  return at::from_blob(x.data_ptr(), x.sizes(), x.strides(), x.options().device(at::kCPU));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_the_host(to).copy_(on_the_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// The one device and its one stream, where everything is done when it is called -------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  const c10::Stream stream{c10::Stream::DEFAULT, kDevice};

  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const override { return stream; }
  c10::Stream exchangeStream(c10::Stream) const override { return stream; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  // Random numbers are the CPU's, so that a network begins with the same ones.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  // What is copied to the host without waiting lies in its ordinary memory.
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), bytes);
  }
};

const bool kHooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

// Operators of torch ------------------------------------------------------------------------------

Tensor convolution(const Tensor& x, const Tensor& w, const optional<Tensor>& bias,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, bool transposed,
                   IntArrayRef output_padding, int64_t groups) {
  const bool has_bias = bias.has_value() && bias->defined();
  return at::convolution(x.cpu(), w.cpu(), has_bias ? bias->cpu() : Tensor(), stride, padding,
                         dilation, transposed, output_padding, groups)
      .to(kDevice);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& x,
                                                        const Tensor& w, IntArrayRef stride,
                                                        IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding,
                                                        int64_t groups,
                                                        std::array<bool, 3> wanted) {
  const c10::SmallVector<int64_t, 1> bias_sizes{grad.size(1)};
  const auto [of_x, of_w, of_bias] =
      at::convolution_backward(grad.cpu(), x.cpu(), w.cpu(), IntArrayRef(bias_sizes), stride,
                               padding, dilation, transposed, output_padding, groups, wanted);
  const auto there = [](const Tensor& t) { return t.defined() ? t.to(kDevice) : t; };
  return {there(of_x), there(of_w), there(of_bias)};
}

// Its schema does not say that it writes the running statistics.
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const optional<Tensor>& weight,
                                              const optional<Tensor>& bias,
                                              const optional<Tensor>& mean,
                                              const optional<Tensor>& variance, bool training,
                                              double momentum, double epsilon) {
  const auto here = [](const optional<Tensor>& t) {
    return t.has_value() && t->defined() ? on_the_host(*t) : Tensor();
  };
  const auto [y, saved_mean, saved_scale] =
      at::native_batch_norm(on_the_host(x), here(weight), here(bias), here(mean), here(variance),
                            training, momentum, epsilon);
  return {y.to(kDevice), saved_mean.to(kDevice), saved_scale.to(kDevice)};
}

// As a CUDA device: only numbers, and indices, may lie on the host beside its tensors. Numbers are
// brought to it, since results are where the first tensor is.
void bring_numbers(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  if (schema.name().find("aten::index") == 0 || schema.name() == "aten::_index_put_impl_") return;
  const auto check = [&](const Tensor& t, bool may_be_number) {
    TORCH_CHECK(!t.defined() || t.device() == kDevice || (may_be_number && t.dim() == 0),
                schema.name(), ": expected all tensors to be on the same device, but found ",
                kDevice, " and ", t.device());
  };
  const size_t count = schema.arguments().size();
  for (size_t i = 0; i < count; ++i) {
    c10::IValue& given = torch::jit::peek(*stack, i, count);
    const auto* alias = schema.arguments()[i].alias_info();
    const bool is_read = alias == nullptr || !alias->isWrite();
    if (given.isTensor()) {
      check(given.toTensor(), is_read);
      if (given.toTensor().defined()) given = given.toTensor().to(kDevice);
    } else if (given.isList()) {
      for (const c10::IValue& one : given.toListRef()) {
        if (one.isTensor()) check(one.toTensor(), is_read);
      }
    }
  }
}

void as_on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  bring_numbers(op, stack);
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&as_on_the_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
  library.impl("native_batch_norm", batch_norm);
  // What torch does for devices without these operators is not what the CPU and CUDA do: it makes
  // an output of another size beforehand, and takes no images that are channels last.
  for (const char* op : {"mse_loss", "native_group_norm"}) {
    library.impl(op, torch::CppFunction::makeFromBoxedFunction<&as_on_the_cpu>());
  }
  // Those that make another view of the same memory, or give a tensor another memory.
  library.impl("view", at::native::view);
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("resize_", at::native::resize_);
  library.impl("set_.source_Storage", at::native::set_);
  library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
  library.impl("set_", at::native::set_cpu_);
}

// As autocast on a CUDA device: convolutions and products in two bytes, sums in four -----

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

#define IN_TWO_BYTES(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define IN_FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(IN_TWO_BYTES)
  AT_FORALL_FP32(IN_FLOAT32)
}

}  // namespace
