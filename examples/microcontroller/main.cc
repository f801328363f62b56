// Runs a model that kprune exported as model.tflite on its test vector, and prints PASS
// or FAIL. Firmware of your own starts where this ends: with other inputs.
//
// Beside this file belong model.cc, model.h, model_test.cc and model_test.h.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "model.h"
#include "model_test.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_context.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

// The runtime's own names moved from `tflite` to `tflite::micro` in autumn 2026; its
// schema stayed. This finds them in either.
namespace tflite {
namespace micro {}
}  // namespace tflite
using namespace tflite;
using namespace tflite::micro;

namespace {

// The arena was measured with the reference kernels. Other kernels take scratch memory
// out of it, and an NPU's plan leaves out the runtime's own structures. Make this
// smaller when you have read what AllocateTensors() uses.
constexpr std::size_t kSpareBytes = 8 * 1024;

#ifdef MODEL_DECODING_BYTES
// Encoded weights are decoded into memory of their own, which may be slower than the
// arena's. To have them in the arena, leave this and SetDecompressionMemory() out and
// take MODEL_ARENA_BYTES.
constexpr std::size_t kArenaBytes = MODEL_ARENA_BYTES_WITHOUT_DECODING + kSpareBytes;
alignas(16) std::uint8_t decoded[MODEL_DECODING_BYTES];
// The interpreter keeps a pointer to it.
const MicroContext::AlternateMemoryRegion decoding[] = {{decoded, sizeof(decoded)}};
#else
constexpr std::size_t kArenaBytes = MODEL_ARENA_BYTES + kSpareBytes;
#endif

alignas(16) std::uint8_t arena[kArenaBytes];

// kTfLiteOk is 0; its namespace depends on the version.
constexpr bool Ok(int status) { return status == 0; }

int Fail(const char* why) {
  MicroPrintf("FAIL: %s", why);
  return 1;
}

int Run() {
  static MicroMutableOpResolver<MODEL_OPERATORS> resolver;
  if (!model_add_operators(resolver)) return Fail("the resolver lacks an operator");

  MicroAllocator* const allocator = MicroAllocator::Create(arena, sizeof(arena));
  MicroResourceVariables* variables = nullptr;
#ifdef MODEL_RESOURCE_VARIABLES
  variables = MicroResourceVariables::Create(allocator, MODEL_RESOURCE_VARIABLES);
#endif
  static MicroInterpreter interpreter(GetModel(model), resolver, allocator, variables);
#ifdef MODEL_DECODING_BYTES
  if (!Ok(interpreter.SetDecompressionMemory(decoding, 1))) {
    return Fail("the memory for decoding was refused");
  }
#endif
  if (!Ok(interpreter.AllocateTensors())) {
    return Fail("AllocateTensors(); is the arena too small?");
  }
  MicroPrintf("arena: %u of %u bytes",
              static_cast<unsigned>(interpreter.arena_used_bytes()),
              static_cast<unsigned>(sizeof(arena)));

  // All inputs before each run: the runtime reuses their memory while it runs.
  for (unsigned i = 0; i < MODEL_INPUTS; ++i) {
    auto* const input = interpreter.input(i);
    if (input->bytes != model_test_input_bytes[i]) return Fail("an input's size");
    std::memcpy(input->data.data, model_test_inputs[i], input->bytes);
  }
  if (!Ok(interpreter.Invoke())) return Fail("Invoke()");

  unsigned wrong = 0;
  for (unsigned i = 0; i < MODEL_OUTPUTS; ++i) {
    const auto* const output = interpreter.output(i);
    if (output->bytes != model_test_output_bytes[i]) return Fail("an output's size");
    const unsigned differences = model_test_differences(i, output->data.data);
    MicroPrintf("output %u: %u elements differ", i, differences);
    wrong += differences;
  }
  if (wrong != 0) return Fail("outputs differ from those of the host");
  MicroPrintf("PASS");
  return 0;
}

}  // namespace

int main() {
  InitializeTarget();
  return Run();
}
