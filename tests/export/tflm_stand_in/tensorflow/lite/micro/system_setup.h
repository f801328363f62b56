// See namespace.h.
#ifndef STAND_IN_SYSTEM_SETUP_H_
#define STAND_IN_SYSTEM_SETUP_H_

#include "tensorflow/lite/micro/namespace.h"

STAND_IN_CPP
void InitializeTarget();
STAND_IN_CPP_END

#endif  // STAND_IN_SYSTEM_SETUP_H_
