"""Files with other weights, and what TensorFlow Lite Micro computes from files."""

import numpy as np

from kprune.export import tflite


def with_sparsity(data, sparsity, seed=0):
    """Returns a file with that share of each kernel at zero, at random places."""
    rng = np.random.default_rng(seed)
    result = bytearray(data)
    for tensor in tflite.parse(result).weights():
        if len(tensor.shape) > 1:
            flat = tensor.values
            gone = rng.permutation(flat.size)[: round(sparsity * flat.size)]
            flat[flat == 0] = 1
            zero = np.broadcast_to(
                tensor._along_axis(tensor.zero_point), tensor.shape
            ).reshape(-1)
            flat[gone] = zero[gone] if tensor.scale.size else 0
    return bytes(result)


def with_values(data, count, seed=0):
    """Returns a file whose kernels hold so many different values."""
    rng = np.random.default_rng(seed)
    result = bytearray(data)
    for tensor in tflite.parse(result).weights():
        if len(tensor.shape) > 1:
            known = rng.permutation(np.arange(-120, 121))[:count]
            values = rng.choice(known, tensor.size)
            scale = 1 if tensor.scale.size else 0.01
            tensor.values[:] = values * scale
    return bytes(result)


def in_tflm(data, inputs, alternate_bytes=0):
    """Returns the first output for each input, as the runtime has it."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(
        data, arena_size=1 << 20, alt_decompression_memory_size=alternate_bytes
    )
    dtype = np.dtype(interpreter.get_input_details(0)["dtype"])
    found = []
    for row in inputs:
        if dtype.kind == "i":
            row = np.clip(row * 40, -127, 127)
        interpreter.set_input(row[None].astype(dtype), 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0))
    return np.concatenate(found)


def edited(data, change):
    """Returns a file after `change` was called with its content as objects."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def without_signatures(data):
    """Returns a file whose inputs and outputs have the names of tensors only."""
    return edited(data, lambda model: setattr(model, "signatureDefs", None))
