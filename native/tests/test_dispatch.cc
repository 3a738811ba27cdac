// The choice of the instruction set. With an argument: "auto" must be that one on this processor, as only an emulator can promise.
#include <string>

#include "support.h"

using namespace gemlet;

int main(int count, char** arguments) {
  for (const Kernels* k : all_kernels()) CHECK(find_kernels(k->name) == k);
  CHECK(find_kernels("portable") != nullptr);
  CHECK(find_kernels("auto") == all_kernels().back());
  for (const char* name : {"", "avx1024", "neon", "Portable", " portable", "portable "}) CHECK(find_kernels(name) == nullptr);
  if (count > 1) CHECK_WITH(find_kernels("auto")->name == std::string(arguments[1]), find_kernels("auto")->name);
}
