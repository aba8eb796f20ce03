// What every registration file shares: torch's ABI-stable interface on one side, raw pointers on the other.
//
// csrc/ops/*.cpp are compiled once per library. The CPU library defines the schemas and registers CPU kernels; with
// PERCEPTION_CUDA the same code registers CUDA kernels.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <sstream>
#include <string>

#include "include/executor.h"

#ifdef PERCEPTION_CUDA
#define PERCEPTION_DISPATCH_KEY CUDA
#define PERCEPTION_SCHEMA(text)
#else
#define PERCEPTION_DISPATCH_KEY CPU
#define PERCEPTION_SCHEMA(text) \
  STABLE_TORCH_LIBRARY_FRAGMENT(perception, library) { library.def(text); }
#endif

// Registers `function` as the kernel of perception::`name` on this library's device, and once its schema.
#define PERCEPTION_OP(name, function, schema) \
  PERCEPTION_SCHEMA(#name schema)             \
  STABLE_TORCH_LIBRARY_IMPL(perception, PERCEPTION_DISPATCH_KEY, library) { library.impl(#name, TORCH_BOX(&function)); }

namespace perception {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the tensors' device current while it lives, and gives the kernels what to run on.
class Launch {
 public:
#ifdef PERCEPTION_CUDA
  explicit Launch(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &executor_.stream));
  }
#else
  explicit Launch(const Tensor&) {
    executor_.run = [](int64_t count, int64_t grain, Executor::Body body, void* context) {
      STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, body, context));
    };
  }
#endif
  const Executor& executor() const { return executor_; }

 private:
#ifdef PERCEPTION_CUDA
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  Executor executor_{};
};

inline std::string describe(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) text << (axis ? ", " : "") << tensor.size(axis);
  text << ") " << torch::headeronly::toString(tensor.scalar_type()) << (tensor.is_cuda() ? " on cuda" : "");
  return text.str();
}

inline std::string describe(std::initializer_list<int64_t> sizes) {
  std::ostringstream text;
  const char* separator = "";
  for (const int64_t size : sizes) {
    text << separator << (size < 0 ? std::string("any") : std::to_string(size));
    separator = ", ";
  }
  return text.str();
}

// Checks the sizes (-1: any) and that the tensor is where this library's kernels and `like` are.
// `what` names the op and the argument: "bev_pool: depth".
inline void check_shape(const char* what, const Tensor& tensor, std::initializer_list<int64_t> sizes,
                        const Tensor& like) {
  bool fits = tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t axis = 0;
  for (const int64_t size : sizes) {
    fits = fits && (size < 0 || tensor.size(axis) == size);
    ++axis;
  }
  STD_TORCH_CHECK(fits, what, " must be (", describe(sizes), "), got ", describe(tensor));
#ifdef PERCEPTION_CUDA
  const bool here = tensor.is_cuda() && tensor.get_device_index() == like.get_device_index();
#else
  const bool here = tensor.is_cpu() && like.is_cpu();
#endif
  STD_TORCH_CHECK(here, what, " must be on the device of the first argument, got ", describe(tensor));
}

// Checks an int64 tensor and gives it contiguous.
inline Tensor index_input(const char* what, const Tensor& tensor, std::initializer_list<int64_t> sizes,
                          const Tensor& like) {
  check_shape(what, tensor, sizes, like);
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long, what, " must be int64, got ", describe(tensor));
  return torch::stable::contiguous(tensor);
}

// Checks a floating tensor and gives it contiguous in the dtype that kernels compute in: float64, else float32.
inline Tensor floating_input(const char* what, const Tensor& tensor, std::initializer_list<int64_t> sizes,
                             const Tensor& like) {
  check_shape(what, tensor, sizes, like);
  const ScalarType type = tensor.scalar_type();
  const bool reduced = type == ScalarType::Half || type == ScalarType::BFloat16;
  STD_TORCH_CHECK(reduced || type == ScalarType::Float || type == ScalarType::Double, what, " must be floating, got ",
                  describe(tensor));
  STD_TORCH_CHECK(type == like.scalar_type(), what, " must have the dtype of the first argument, got ",
                  describe(tensor));
  return torch::stable::contiguous(reduced ? torch::stable::to(tensor, ScalarType::Float) : tensor);
}

// Gives a result in the dtype of the input that it was computed from.
inline Tensor output_like(const Tensor& result, const Tensor& input) {
  return result.scalar_type() == input.scalar_type() ? result : torch::stable::to(result, input.scalar_type());
}

// Calls body(T()) with the tensor's type, float or double.
template <typename F>
void dispatch_floating(const Tensor& tensor, const F& body) {
  if (tensor.scalar_type() == ScalarType::Double) {
    body(double());
  } else {
    body(float());
  }
}

}  // namespace perception
