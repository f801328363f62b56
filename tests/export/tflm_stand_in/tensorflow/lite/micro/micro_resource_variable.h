// See namespace.h.
#ifndef STAND_IN_MICRO_RESOURCE_VARIABLE_H_
#define STAND_IN_MICRO_RESOURCE_VARIABLE_H_

#include "tensorflow/lite/micro/micro_allocator.h"

STAND_IN_CPP

class MicroResourceVariables {
 public:
  static MicroResourceVariables* Create(MicroAllocator* allocator, int num_variables);
};

STAND_IN_CPP_END

#endif  // STAND_IN_MICRO_RESOURCE_VARIABLE_H_
