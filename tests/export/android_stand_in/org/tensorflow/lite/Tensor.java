package org.tensorflow.lite;

/** A stand-in: only what the example uses. */
public interface Tensor {
    int numElements();
}
