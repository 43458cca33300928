// The operators over all weights of a network as kernels of torch's dispatcher, with their
// gradient.
//
// A network has hundreds of weights, and handing them to Python and back costs a good part of what
// rounding them does. So a call that is in order stays in C++. Any other goes to the Python router,
// which sends it to the backend that is forced or says what is wrong with it.

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <atomic>

#include "bindings/operators.h"
#include "bindings/tensors.h"
#include "bindings/weight.h"

namespace micronet {
namespace {

namespace py = pybind11;
using at::TensorList;
using Tensors = std::vector<Tensor>;

// As MAX_LEVELS in kernels/scheme.py.
constexpr int64_t kMaxLevels = 256;

struct Router {
  std::atomic<bool> serves_natively{false};
  // route(name of the operator, arguments); a function of a Python module, never released.
  py::handle route;

  static Router& shared() {
    static Router router;
    return router;
  }

  template <typename... Args>
  Tensors operator()(const char* op, const Args&... args) const {
    const py::gil_scoped_acquire gil;
    return py::cast<Tensors>(route(op, py::make_tuple(args...)));
  }
};

void set_router(py::function route) { Router::shared().route = route.release(); }

void serve_natively(bool wanted) { Router::shared().serves_natively = wanted; }

// What is in order ------------------------------------------------------------------------------

bool is_float(const Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 ||
         x.scalar_type() == at::kHalf;
}

bool is_alike(const Tensor& x, const Tensor& first) {
  return x.scalar_type() == first.scalar_type() && x.device() == first.device() &&
         x.layout() == at::kStrided;
}

// Whether the mask is empty or has a bit for each element of x.
bool is_mask_of(const Tensor& x, const Tensor& mask) {
  return mask.scalar_type() == at::kByte && mask.device() == x.device() && mask.dim() == 1 &&
         (mask.numel() == 0 || (mask.numel() == bytes_for(x.numel()) && mask.is_contiguous()));
}

bool are_in_order(const Tensors& weights, const Tensors& masks, const std::vector<int64_t>& levels,
                  int64_t scheme) {
  if (weights.empty() || masks.size() != weights.size() || levels.size() != weights.size() ||
      !is_float(weights[0]) || scheme != kAffine) {
    return false;
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& w = weights[i];
    if (!is_alike(w, weights[0]) || w.dim() == 0 || w.numel() == 0 || !w.is_contiguous() ||
        !is_mask_of(w, masks[i]) || levels[i] < 2 || levels[i] > kMaxLevels) {
      return false;
    }
  }
  return true;
}

bool are_in_order(const Tensors& grads, const Tensors& masks) {
  if (grads.empty() || masks.size() != grads.size() || !is_float(grads[0])) return false;
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!is_alike(grads[i], grads[0]) || !grads[i].is_non_overlapping_and_dense() ||
        !is_mask_of(grads[i], masks[i])) {
      return false;
    }
  }
  return true;
}

// The kernels -----------------------------------------------------------------------------------

Tensors route_weights(TensorList all, TensorList bits, at::IntArrayRef counts, int64_t scheme) {
  const Tensors weights = all.vec(), masks = bits.vec();
  const std::vector<int64_t> levels = counts.vec();
  const Router& router = Router::shared();
  return router.serves_natively && are_in_order(weights, masks, levels, scheme)
             ? fake_quant_weights(weights, masks, levels, scheme)
             : router("fake_quant_weights", weights, masks, levels, scheme);
}

Tensors route_gradients(TensorList all, TensorList bits) {
  const Tensors grads = all.vec(), masks = bits.vec();
  const Router& router = Router::shared();
  return router.serves_natively && are_in_order(grads, masks)
             ? mask_gradients(grads, masks)
             : router("mask_gradients", grads, masks);
}

// The operators as the dispatcher has them, so that its modes see every call.
template <typename Signature>
c10::TypedOperatorHandle<Signature> operator_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

Tensors dispatch_weights(TensorList weights, TensorList masks, at::IntArrayRef levels,
                         int64_t scheme) {
  static const auto op = operator_of<decltype(route_weights)>("micronet::fake_quant_weights");
  return op.call(weights, masks, levels, scheme);
}

Tensors dispatch_gradients(TensorList grads, TensorList masks) {
  static const auto op = operator_of<decltype(route_gradients)>("micronet::mask_gradients");
  return op.call(grads, masks);
}

// The gradient: 1 where the mask keeps the weight, else 0 ---------------------------------------

struct MaskedGradient : torch::autograd::Function<MaskedGradient> {
  using Context = torch::autograd::AutogradContext;

  static Tensors forward(Context* context, TensorList weights, const Tensors& masks,
                         at::IntArrayRef levels, int64_t scheme) {
    context->set_materialize_grads(false);
    context->save_for_backward(masks);
    const at::AutoDispatchBelowADInplaceOrView below;
    return dispatch_weights(weights, masks, levels, scheme);
  }

  // None for a weight that nothing depends on, as if it had been quantized by itself.
  static Tensors backward(Context* context, Tensors grads) {
    const Tensors masks = context->get_saved_variables();
    Tensors known, theirs;
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      known.push_back(grads[i].contiguous());
      theirs.push_back(masks[i]);
    }
    if (!known.empty()) known = dispatch_gradients(known, theirs);
    auto next = known.begin();
    for (Tensor& grad : grads) {
      if (grad.defined()) grad = *next++;
    }
    grads.resize(grads.size() + 3);  // masks, levels and scheme have none
    return grads;
  }
};

Tensors with_gradient(TensorList weights, TensorList masks, at::IntArrayRef levels,
                      int64_t scheme) {
  return MaskedGradient::apply(weights, masks.vec(), levels, scheme);
}

void add_kernels(torch::Library& library) {
  library.impl("fake_quant_weights", route_weights);
  library.impl("mask_gradients", route_gradients);
}

void add_gradient(torch::Library& library) { library.impl("fake_quant_weights", with_gradient); }

TORCH_LIBRARY_IMPL(micronet, CPU, library) { add_kernels(library); }
TORCH_LIBRARY_IMPL(micronet, AutogradCPU, library) { add_gradient(library); }
#ifdef MICRONET_CUDA
TORCH_LIBRARY_IMPL(micronet, CUDA, library) { add_kernels(library); }
TORCH_LIBRARY_IMPL(micronet, AutogradCUDA, library) { add_gradient(library); }
#endif
#ifdef MICRONET_EMULATED_DEVICE
TORCH_LIBRARY_IMPL(micronet, PrivateUse1, library) { add_kernels(library); }
TORCH_LIBRARY_IMPL(micronet, AutogradPrivateUse1, library) { add_gradient(library); }
#endif

}  // namespace

void add_weight_lists(py::module_& module) {
  module.def("set_router", &set_router);
  module.def("serve_natively", &serve_natively);
  module.def("dispatch_weights", [](const Tensors& weights, const Tensors& masks,
                                    const std::vector<int64_t>& levels, int64_t scheme) {
    const py::gil_scoped_release no_gil;
    return dispatch_weights(weights, masks, levels, scheme);
  });
}

}  // namespace micronet
