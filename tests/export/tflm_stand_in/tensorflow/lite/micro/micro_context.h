// See namespace.h.
#ifndef STAND_IN_MICRO_CONTEXT_H_
#define STAND_IN_MICRO_CONTEXT_H_

#include "tensorflow/lite/micro/common.h"

STAND_IN_CPP

class MicroContext {
 public:
  struct AlternateMemoryRegion {
    void* address;
    size_t bytes;
  };
};

STAND_IN_CPP_END

#endif  // STAND_IN_MICRO_CONTEXT_H_
