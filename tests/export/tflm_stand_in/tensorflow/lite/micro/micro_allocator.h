// See namespace.h.
#ifndef STAND_IN_MICRO_ALLOCATOR_H_
#define STAND_IN_MICRO_ALLOCATOR_H_

#include "tensorflow/lite/micro/common.h"

STAND_IN_CPP

enum class MemoryPlannerType { kGreedy, kLinear };

class MicroAllocator {
 public:
  static MicroAllocator* Create(
      uint8_t* tensor_arena, size_t arena_size,
      MemoryPlannerType memory_planner_type = MemoryPlannerType::kGreedy);
};

STAND_IN_CPP_END

#endif  // STAND_IN_MICRO_ALLOCATOR_H_
