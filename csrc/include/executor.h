// What a kernel runs on, without a word of torch: threads on the CPU, a stream on a CUDA device.
//
// Every kernel has one signature for both devices; csrc/cpu and csrc/cuda each define it, and each library links one.
#pragma once

#include <cstdint>

namespace perception {

#ifdef PERCEPTION_CUDA

struct Executor {
  void* stream;  // a cudaStream_t; all pointers that go with it are device memory
};

#else

struct Executor {
  using Body = void (*)(int64_t begin, int64_t end, void* context);
  void (*run)(int64_t count, int64_t grain, Body body, void* context);

  // Calls body(begin, end) on disjoint ranges that cover [0, count), no more of them than it has lengths of `grain`.
  // Where the ranges end depends on the number of threads: results must not.
  template <typename F>
  void parallel_for(int64_t count, int64_t grain, const F& body) const {
    run(
        count, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
        const_cast<F*>(&body));
  }
};

#endif

}  // namespace perception
