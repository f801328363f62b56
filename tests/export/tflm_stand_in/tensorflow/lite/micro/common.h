// See namespace.h. (In the runtime: tensorflow/lite/c/common.h.)
#ifndef STAND_IN_COMMON_H_
#define STAND_IN_COMMON_H_

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/namespace.h"

STAND_IN_C

typedef enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

typedef union TfLitePtrUnion {
  float* f;
  int8_t* int8;
  int16_t* i16;
  void* data;
} TfLitePtrUnion;

typedef struct TfLiteTensor {
  TfLitePtrUnion data;
  size_t bytes;
} TfLiteTensor;

STAND_IN_C_END

#endif  // STAND_IN_COMMON_H_
