// Runs on an emulated Cortex-M: prints the array as it stands in memory to the host's
// standard output, after it has checked the comparison with the test vector. It has no
// library and no start-up code but its own.
#include <stdint.h>

#include "model.h"
#include "model_test.h"

namespace {

alignas(16) volatile uint8_t changed[256];

// Semihosting: https://github.com/ARM-software/abi-aa/blob/main/semihosting/semihosting.rst
uintptr_t Host(uintptr_t operation, const void* argument) {
  register uintptr_t r0 asm("r0") = operation;
  register const void* r1 asm("r1") = argument;
  asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

[[noreturn]] void Exit(uintptr_t code) {
  const uintptr_t block[] = {0x20026, code};  // ADP_Stopped_ApplicationExit
  Host(0x20, block);                          // SYS_EXIT_EXTENDED
  for (;;) {
  }
}

void Write(const void* bytes, uintptr_t count) {
  static const char name[] = ":tt";
  const uintptr_t open[] = {reinterpret_cast<uintptr_t>(name), 4, 3};
  const uintptr_t file = Host(0x01, open);  // SYS_OPEN, for writing: standard output
  const uintptr_t write[] = {file, reinterpret_cast<uintptr_t>(bytes), count};
  if (Host(0x05, write) != 0) Exit(2);  // SYS_WRITE: how many are left
}

}  // namespace

extern "C" [[noreturn]] void Reset() {
  // The floating-point unit is off after a reset.
  *reinterpret_cast<volatile uint32_t*>(0xe000ed88) |= 0xf << 20;
  asm volatile("dsb\n isb");
  if (reinterpret_cast<uintptr_t>(model) % 16 != 0) Exit(3);
  for (unsigned i = 0; i < MODEL_OUTPUTS; ++i) {
    if (model_test_differences(i, model_test_outputs[i]) != 0) Exit(4);
    const auto* const expected = static_cast<const uint8_t*>(model_test_outputs[i]);
    const unsigned bytes = model_test_output_bytes[i];
    if (bytes > sizeof(changed)) Exit(5);
    for (unsigned k = 0; k < bytes; ++k) changed[k] = expected[k];
    changed[bytes - 1] ^= 0x40;  // 64 steps or more; of a float, its exponent.
    if (model_test_differences(i, const_cast<uint8_t*>(changed)) != 1) Exit(6);
  }
  Write(model, model_len);
  Exit(0);
}

extern "C" char stack_top[];
__attribute__((section(".vectors"), used)) const void* const vectors[] = {
    stack_top, reinterpret_cast<const void*>(Reset)};
