// First touches of big outputs.
#pragma once

#include <sys/mman.h>

#include <cstdint>

namespace perception {

// Asks the system for large pages in [memory, memory + bytes), where nothing has been written yet. The first touch of
// a small page costs more than a kernel that fills it; big allocations come as untouched pages each time. Advice alone:
// nothing is lost where the system does not follow.
inline void ask_large_pages(void* memory, int64_t bytes) {
  constexpr uintptr_t kSmallPage = 4096, kLargePage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kSmallPage - 1) / kSmallPage * kSmallPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kSmallPage * kSmallPage;
  if (end >= begin + 2 * kLargePage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace perception
