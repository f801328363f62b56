// Stand-ins for the declarations of TensorFlow Lite Micro that examples/microcontroller
// uses, with their signatures, so that tests compile it without the runtime's sources.
// https://github.com/tensorflow/tflite-micro
//
// This file is none of the runtime's: it says where its names are. Until summer 2026 they
// were in `tflite`, and those of C in no namespace; later in `tflite::micro`.

#ifndef STAND_IN_NAMESPACE_H_
#define STAND_IN_NAMESPACE_H_

#ifdef STAND_IN_FLAT
#define STAND_IN_C
#define STAND_IN_C_END
#define STAND_IN_CPP namespace tflite {
#define STAND_IN_CPP_END }
#else
#define STAND_IN_C \
  namespace tflite { \
  namespace micro {
#define STAND_IN_C_END \
  }                    \
  }
#define STAND_IN_CPP STAND_IN_C
#define STAND_IN_CPP_END STAND_IN_C_END
#endif

#endif  // STAND_IN_NAMESPACE_H_
