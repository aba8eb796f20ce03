// Runs all tests, or those whose names hold the first argument, and prints a digest of the results of each: the digests
// of two instruction sets must be equal.
#include <cstdio>

#include "tests/check.h"

namespace perception::testing {
namespace {

uint64_t digest;

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

bool add_test(const char* name, void (*body)()) {
  tests().push_back({name, body});
  return true;
}

unsigned char& garbage() {
  static unsigned char pattern = 0xA5;
  return pattern;
}

// FNV-1a.
void keep(const std::string& results) {
  for (const char byte : results) digest = (digest ^ static_cast<unsigned char>(byte)) * 0x100000001B3ull;
}

int run_all(const std::string& part) {
  int failed = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(part) == std::string::npos) continue;
    digest = 0xCBF29CE484222325ull;
    try {
      test.body();
      std::printf("%s %016llx\n", test.name, static_cast<unsigned long long>(digest));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s failed: %s\n", test.name, error.what());
      ++failed;
    }
    std::fflush(stdout);
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace perception::testing

int main(int count, char** arguments) { return perception::testing::run_all(count > 1 ? arguments[1] : ""); }
