// See namespace.h. The methods are all that the runtime's header has, read there and in
// projects that call each of them; their argument, the kernel to register, has a default.
#ifndef STAND_IN_MICRO_MUTABLE_OP_RESOLVER_H_
#define STAND_IN_MICRO_MUTABLE_OP_RESOLVER_H_

#include <cstring>

#include "tensorflow/lite/micro/common.h"

STAND_IN_CPP

class MicroOpResolver {
 public:
  virtual ~MicroOpResolver() {}
};

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
#define STAND_IN_ADD(name) \
  TfLiteStatus Add##name() { return Register("Add" #name); }
  STAND_IN_ADD(Abs)
  STAND_IN_ADD(Add)
  STAND_IN_ADD(AddN)
  STAND_IN_ADD(ArgMax)
  STAND_IN_ADD(ArgMin)
  STAND_IN_ADD(AssignVariable)
  STAND_IN_ADD(AveragePool2D)
  STAND_IN_ADD(BatchMatMul)
  STAND_IN_ADD(BatchToSpaceNd)
  STAND_IN_ADD(BroadcastArgs)
  STAND_IN_ADD(BroadcastTo)
  STAND_IN_ADD(CallOnce)
  STAND_IN_ADD(Cast)
  STAND_IN_ADD(Ceil)
  STAND_IN_ADD(CircularBuffer)
  STAND_IN_ADD(Concatenation)
  STAND_IN_ADD(Conv2D)
  STAND_IN_ADD(Cos)
  STAND_IN_ADD(CumSum)
  STAND_IN_ADD(Decode)
  STAND_IN_ADD(Delay)
  STAND_IN_ADD(DepthToSpace)
  STAND_IN_ADD(DepthwiseConv2D)
  STAND_IN_ADD(Dequantize)
  STAND_IN_ADD(DetectionPostprocess)
  STAND_IN_ADD(Div)
  STAND_IN_ADD(DynamicUpdateSlice)
  STAND_IN_ADD(Elu)
  STAND_IN_ADD(EmbeddingLookup)
  STAND_IN_ADD(Energy)
  STAND_IN_ADD(Equal)
  STAND_IN_ADD(EthosU)
  STAND_IN_ADD(Exp)
  STAND_IN_ADD(ExpandDims)
  STAND_IN_ADD(FftAutoScale)
  STAND_IN_ADD(Fill)
  STAND_IN_ADD(FilterBank)
  STAND_IN_ADD(FilterBankLog)
  STAND_IN_ADD(FilterBankSpectralSubtraction)
  STAND_IN_ADD(FilterBankSquareRoot)
  STAND_IN_ADD(Floor)
  STAND_IN_ADD(FloorDiv)
  STAND_IN_ADD(FloorMod)
  STAND_IN_ADD(Framer)
  STAND_IN_ADD(FullyConnected)
  STAND_IN_ADD(Gather)
  STAND_IN_ADD(GatherNd)
  STAND_IN_ADD(Greater)
  STAND_IN_ADD(GreaterEqual)
  STAND_IN_ADD(HardSwish)
  STAND_IN_ADD(If)
  STAND_IN_ADD(Irfft)
  STAND_IN_ADD(L2Normalization)
  STAND_IN_ADD(L2Pool2D)
  STAND_IN_ADD(LeakyRelu)
  STAND_IN_ADD(Less)
  STAND_IN_ADD(LessEqual)
  STAND_IN_ADD(Log)
  STAND_IN_ADD(LogSoftmax)
  STAND_IN_ADD(LogicalAnd)
  STAND_IN_ADD(LogicalNot)
  STAND_IN_ADD(LogicalOr)
  STAND_IN_ADD(Logistic)
  STAND_IN_ADD(MaxPool2D)
  STAND_IN_ADD(Maximum)
  STAND_IN_ADD(Mean)
  STAND_IN_ADD(Minimum)
  STAND_IN_ADD(MirrorPad)
  STAND_IN_ADD(Mul)
  STAND_IN_ADD(Neg)
  STAND_IN_ADD(NotEqual)
  STAND_IN_ADD(OverlapAdd)
  STAND_IN_ADD(PCAN)
  STAND_IN_ADD(Pack)
  STAND_IN_ADD(Pad)
  STAND_IN_ADD(PadV2)
  STAND_IN_ADD(Prelu)
  STAND_IN_ADD(Quantize)
  STAND_IN_ADD(ReadVariable)
  STAND_IN_ADD(ReduceAll)
  STAND_IN_ADD(ReduceMax)
  STAND_IN_ADD(ReduceMin)
  STAND_IN_ADD(Relu)
  STAND_IN_ADD(Relu6)
  STAND_IN_ADD(Reshape)
  STAND_IN_ADD(ResizeBilinear)
  STAND_IN_ADD(ResizeNearestNeighbor)
  STAND_IN_ADD(ReverseV2)
  STAND_IN_ADD(Rfft)
  STAND_IN_ADD(Round)
  STAND_IN_ADD(Rsqrt)
  STAND_IN_ADD(SelectV2)
  STAND_IN_ADD(Shape)
  STAND_IN_ADD(Sin)
  STAND_IN_ADD(Slice)
  STAND_IN_ADD(Softmax)
  STAND_IN_ADD(SpaceToBatchNd)
  STAND_IN_ADD(SpaceToDepth)
  STAND_IN_ADD(Split)
  STAND_IN_ADD(SplitV)
  STAND_IN_ADD(Sqrt)
  STAND_IN_ADD(Square)
  STAND_IN_ADD(SquaredDifference)
  STAND_IN_ADD(Squeeze)
  STAND_IN_ADD(Stacker)
  STAND_IN_ADD(StridedSlice)
  STAND_IN_ADD(Sub)
  STAND_IN_ADD(Sum)
  STAND_IN_ADD(Svdf)
  STAND_IN_ADD(Tanh)
  STAND_IN_ADD(Transpose)
  STAND_IN_ADD(TransposeConv)
  STAND_IN_ADD(UnidirectionalSequenceLSTM)
  STAND_IN_ADD(Unpack)
  STAND_IN_ADD(VarHandle)
  STAND_IN_ADD(While)
  STAND_IN_ADD(Window)
  STAND_IN_ADD(ZerosLike)
#undef STAND_IN_ADD

  unsigned int GetRegistrationLength() { return registrations_len_; }
  const char* registered(unsigned int index) const { return registrations_[index]; }

 private:
  // As in the runtime, an operator too many and one that is there are errors.
  TfLiteStatus Register(const char* name) {
    if (registrations_len_ >= tOpCount) return kTfLiteError;
    for (unsigned int i = 0; i < registrations_len_; ++i) {
      if (std::strcmp(registrations_[i], name) == 0) return kTfLiteError;
    }
    registrations_[registrations_len_++] = name;
    return kTfLiteOk;
  }

  const char* registrations_[tOpCount];
  unsigned int registrations_len_ = 0;
};

STAND_IN_CPP_END

#endif  // STAND_IN_MICRO_MUTABLE_OP_RESOLVER_H_
