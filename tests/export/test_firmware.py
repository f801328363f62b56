"""The sources of exported models: compiled, read back, and run in the runtime."""

import ctypes
import re
from pathlib import Path

import compilers
import keras
import nets
import numpy as np
import pytest

from kprune.export import export, tflite

L = keras.layers
REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "microcontroller" / "main.cc"
DOCUMENT = REPOSITORY / "docs" / "microcontrollers.md"
CORTEX_M = Path(__file__).with_name("cortex_m")
MICRO = "microcontroller"


def stateful():
    inputs = L.Input((3, 4), batch_size=1)
    return keras.Model(inputs, L.SimpleRNN(3, stateful=True, unroll=True)(inputs))


def only_an_activation():
    return keras.Sequential([L.Input((4,)), L.Activation("linear")])


def wide():
    """Its weights are large enough for encoding to pay."""
    layers = [
        L.Input((8, 8, 1), name="image"),
        L.Conv2D(16, 3),
        L.Flatten(),
        L.Dense(3),
    ]
    return nets.zeroed(keras.Sequential(layers), 0.9)


def numbers(*shape):
    return np.random.default_rng(0).random(shape, dtype="float32")


# Kind: model, data, and how it is exported.
KINDS = {
    "int8": (nets.cnn, nets.images, (MICRO, "int8")),
    "int16x8": (nets.two_inputs, nets.two_inputs_data, (MICRO, "int16x8")),
    "float32": (nets.two_inputs, nets.two_inputs_data, (MICRO, "none")),
    "encoded": (wide, nets.images, (MICRO, "int8")),
    "ethos-u": (nets.two_inputs, nets.two_inputs_data, ("ethos-u55-128", "int8")),
    "stateful": (stateful, lambda: numbers(1, 3, 4), (MICRO, "int8")),
    "no operator": (only_an_activation, lambda: numbers(8, 4), (MICRO, "none")),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every kind of file, exported as model.tflite into a folder of its own."""
    result = {}
    for kind, (model, data, (target, quantization)) in KINDS.items():
        keras.utils.set_random_seed(0)
        result[kind] = tmp_path_factory.mktemp(kind.replace(" ", "-"))
        export(
            *(model(), result[kind] / "model.tflite", target, quantization),
            representative_data=data(),
            benchmark=False,
            encode=kind == "encoded",
        )
    return result


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(folders, kind):
    return folders[kind]


def device_file(folder):
    """What the array has to hold."""
    compiled = folder / "model_vela.tflite"
    path = compiled if compiled.exists() else folder / "model.tflite"
    return path.read_bytes()


def library(folder):
    """The sources, compiled for this machine and loaded."""
    path = folder / "library.so"
    if not path.exists():
        sources = (folder / "model.cc", folder / "model_test.cc")
        compilers.host("-shared", "-fPIC", "-I", folder, *sources, "-o", path)
    return ctypes.CDLL(path)


def vector(loaded, side):
    """The bytes of each input or output of the test vector."""
    count = loaded.counts[f"{side.upper()}S"]
    pointers = (ctypes.c_void_p * count).in_dll(loaded, f"model_test_{side}s")
    sizes = (ctypes.c_uint * count).in_dll(loaded, f"model_test_{side}_bytes")
    return [ctypes.string_at(*pair) for pair in zip(pointers, sizes, strict=True)]


@pytest.fixture
def loaded(folder):
    found = library(folder)
    facts = compilers.macros(folder / "model.h")
    found.counts = {name: int(facts[f"MODEL_{name}"]) for name in ("INPUTS", "OUTPUTS")}
    return found


def dtype_of(c_type):
    return np.dtype({"float": "float32"}.get(c_type, c_type.removesuffix("_t")))


def interpreter(data, arena=1 << 20, decoding=0):
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(
        data, arena_size=arena, alt_decompression_memory_size=decoding
    )


def test_the_array_is_the_file(folder, loaded):
    data = device_file(folder)
    assert ctypes.c_uint.in_dll(loaded, "model_len").value == len(data)
    array = (ctypes.c_ubyte * len(data)).in_dll(loaded, "model")
    assert bytes(array) == data
    assert ctypes.addressof(array) % 16 == 0


def test_the_runtime_makes_the_vectors_outputs_of_its_inputs(folder, loaded):
    """Bit for bit. No NPU is here: of a compiled file the plain one is run."""
    running = interpreter((folder / "model.tflite").read_bytes())
    for index, stored in enumerate(vector(loaded, "input")):
        details = running.get_input_details(index)
        values = np.frombuffer(stored, details["dtype"])
        running.set_input(values.reshape(details["shape"]), index)
    running.invoke()
    for index, stored in enumerate(vector(loaded, "output")):
        assert running.get_output(index).tobytes() == stored
    assert len(vector(loaded, "output")) == loaded.counts["OUTPUTS"]


def test_the_vector_is_a_sample_of_the_data(folder, kind, loaded):
    data = KINDS[kind][1]()
    data = data if isinstance(data, dict) else {"": data}
    first = {values[0].size: values[0] for values in data.values()}
    facts = compilers.macros(folder / "model.h")
    names = set(re.findall(r"MODEL_INPUT_(\w+)_INDEX", " ".join(facts)))
    assert len(names) == loaded.counts["INPUTS"] == len(first)
    for name in names:
        prefix = f"MODEL_INPUT_{name}"
        stored = vector(loaded, "input")[int(facts[f"{prefix}_INDEX"])]
        values = np.frombuffer(stored, dtype_of(facts[f"{prefix}_TYPE"]))
        scale = float(facts.get(f"{prefix}_SCALE", "1f")[:-1])
        zero = int(facts.get(f"{prefix}_ZERO_POINT", "(0)")[1:-1])
        expected = first[values.size].reshape(-1)
        assert np.allclose((values - float(zero)) * scale, expected, atol=scale / 2)


def test_facts_by_name_are_those_of_the_file(folder, kind):
    """Names lead to indices, and what stands at the index is what they say."""
    facts = compilers.macros(folder / "model.h")
    running = interpreter((folder / "model.tflite").read_bytes())
    sides = {"INPUT": running.get_input_details, "OUTPUT": running.get_output_details}
    for side, details_of in sides.items():
        names = re.findall(rf"MODEL_{side}_(\w+)_INDEX", " ".join(facts))
        indices = [int(facts[f"MODEL_{side}_{name}_INDEX"]) for name in names]
        assert sorted(indices) == list(range(int(facts[f"MODEL_{side}S"])))
        for name, index in zip(names, indices, strict=True):
            prefix, details = f"MODEL_{side}_{name}", details_of(index)
            shape = [int(n) for n in facts[f"{prefix}_SHAPE"][1:-1].split(",")]
            assert shape == list(details["shape"])
            dtype = np.dtype(details["dtype"])
            assert dtype_of(facts[f"{prefix}_TYPE"]) == dtype
            assert int(facts[f"{prefix}_BYTES"]) == dtype.itemsize * np.prod(shape)
            scales = details["quantization_parameters"]["scales"]
            assert (f"{prefix}_SCALE" in facts) == bool(len(scales))
            if len(scales):
                zeros = details["quantization_parameters"]["zero_points"]
                scale = np.float32(facts[f"{prefix}_SCALE"].removesuffix("f"))
                assert scale == scales[0]
                assert facts[f"{prefix}_ZERO_POINT"] == f"({zeros[0]})"


def test_inputs_and_outputs_of_a_dict_are_found_by_name(folders):
    facts = compilers.macros(folders["float32"] / "model.h")
    assert facts["MODEL_INPUT_PIXELS_SHAPE"] == "{1, 6, 6, 2}"
    assert facts["MODEL_INPUT_FACTS_SHAPE"] == "{1, 5}"
    assert facts["MODEL_OUTPUT_PRICE_SHAPE"] == "{1, 1}"
    assert facts["MODEL_OUTPUT_KIND_SHAPE"] == "{1, 3}"


def test_differences_from_the_vector_are_counted(folder, kind, loaded):
    facts = compilers.macros(folder / "model.h")
    steps_allowed = 1 if kind == "ethos-u" else 0
    outputs = vector(loaded, "output")
    for name in re.findall(r"(MODEL_OUTPUT_\w+)_INDEX", " ".join(facts)):
        index = int(facts[f"{name}_INDEX"])
        values = np.frombuffer(outputs[index], dtype_of(facts[f"{name}_TYPE"]))
        inwards = np.where(values > 0, -1, 1).astype(values.dtype)

        def counted(changed, index=index):
            return loaded.model_test_differences(index, changed.tobytes())

        assert counted(values) == 0
        if values.dtype.kind == "i":
            assert counted(values + inwards) == (1 - steps_allowed) * values.size
            assert counted(values + 2 * inwards) == values.size
        else:
            largest = np.abs(values).max()
            assert counted(values + inwards * largest * np.float32(0.9e-4)) == 0
            far = values + inwards * largest * np.float32(1.1e-4)
            assert counted(far) == values.size
            assert counted(np.full_like(values, np.nan)) == values.size
    assert loaded.model_test_differences(len(outputs), b"") == 1


RESOLVER = """
#include <cstdio>
#include "model.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
int main() {
  using namespace tflite::micro;
  MicroMutableOpResolver<MODEL_OPERATORS> resolver;
  if (!model_add_operators(resolver)) return 1;
  for (unsigned i = 0; i < resolver.GetRegistrationLength(); ++i) {
    std::puts(resolver.registered(i));
  }
  MicroMutableOpResolver<MODEL_OPERATORS> full;
  full.AddWindow();
  const bool fits = resolver.GetRegistrationLength() < MODEL_OPERATORS;
  return model_add_operators(full) == fits ? 0 : 2;
}
"""
METHODS = {
    "int8": ["Conv2D", "DepthwiseConv2D", "FullyConnected", "Reshape"],
    "encoded": ["Conv2D", "Decode", "FullyConnected", "Reshape"],
    "ethos-u": ["EthosU"],
    "no operator": [],
}


@pytest.mark.parametrize("chosen", METHODS)
def test_the_resolver_has_exactly_the_operators(folders, tmp_path, chosen):
    folder, main = folders[chosen], tmp_path / "main.cc"
    main.write_text(RESOLVER)
    includes = ("-I", folder, "-I", compilers.STAND_IN)
    compilers.host(*includes, main, "-o", tmp_path / "main")
    printed = compilers.run(tmp_path / "main").decode().split()
    assert sorted(printed) == [f"Add{name}" for name in METHODS[chosen]]
    counted = tflite.parse(device_file(folder)).operator_counts()
    assert len(printed) == len(counted)


LABELS = ["cat", 'a "quoted" \\ one', "what??=/", "weiß 1", "a\tb", "%s"]
PRINTER = """
#include <stdio.h>
#include "model.h"
static const char* const labels[] = MODEL_OUTPUT_OUTPUT_LABELS;
int main(void) {
  for (unsigned i = 0; i < sizeof(labels) / sizeof(*labels); ++i) puts(labels[i]);
  return 0;
}
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Folders of the same model, with and without labels."""
    model = keras.Sequential([L.Input((4,), name="x"), L.Dense(len(LABELS))])
    result = {}
    for target in (MICRO, "ethos-u55-128"):
        for labels in (None, LABELS):
            folder = tmp_path_factory.mktemp("labelled")
            export(
                *(model, folder / "model.tflite", target, "int8", numbers(16, 4)),
                benchmark=False,
                labels=labels,
            )
            result[target, labels is not None] = folder
    return result


@pytest.mark.parametrize("target", [MICRO, "ethos-u55-128"])
@pytest.mark.parametrize(("language", "standard"), [("c", "c11"), ("c++", "c++11")])
def test_labels_are_what_a_compiler_makes_of_the_header(
    labelled, tmp_path, target, language, standard
):
    main = tmp_path / "main"
    source = main.with_suffix({"c": ".c", "c++": ".cc"}[language])
    source.write_text(PRINTER)
    includes = ("-I", labelled[target, True])
    compilers.host(*includes, source, "-o", main, language=language, standard=standard)
    assert compilers.run(main).decode().splitlines() == LABELS


@pytest.mark.parametrize("target", [MICRO, "ethos-u55-128"])
def test_labels_take_nothing_of_the_flash(labelled, target):
    """All that is compiled into firmware is the same with them and without."""
    without, having = labelled[target, False], labelled[target, True]
    assert device_file(having) == device_file(without)
    for name in ("model.cc", "model_test.cc", "model_test.h"):
        assert (having / name).read_bytes() == (without / name).read_bytes()
    facts = [compilers.macros(folder / "model.h") for folder in (without, having)]
    assert set(facts[1]) - set(facts[0]) == {"MODEL_OUTPUT_OUTPUT_LABELS"}


def test_an_encoded_file_runs_in_the_memory_that_the_header_states(folders):
    facts = compilers.macros(folders["encoded"] / "model.h")
    inside = int(facts["MODEL_ARENA_BYTES"])
    outside = int(facts["MODEL_ARENA_BYTES_WITHOUT_DECODING"])
    decoding = int(facts["MODEL_DECODING_BYTES"])
    data = device_file(folders["encoded"])
    interpreter(data, inside).invoke()
    interpreter(data, outside, decoding).invoke()
    with pytest.raises(RuntimeError):
        interpreter(data, outside)
    with pytest.raises(RuntimeError):
        interpreter(data, outside, decoding - 64)


def test_only_what_a_model_needs_is_in_its_header(folders):
    for kind, folder in folders.items():
        facts = compilers.macros(folder / "model.h")
        assert ("MODEL_DECODING_BYTES" in facts) == (kind == "encoded")
        assert ("MODEL_RESOURCE_VARIABLES" in facts) == (kind == "stateful")


@pytest.mark.parametrize("processor", compilers.CORTEX_M)
def test_the_sources_compile_for_a_cortex_m_and_hold_the_file(
    folder, tmp_path, processor
):
    for name in ("model", "model_test"):
        compilers.cross(
            *(processor, "-I", folder, "-c", folder / f"{name}.cc"),
            *("-o", tmp_path / f"{name}.o"),
        )
    table = compilers.run("arm-none-eabi-objdump", "-t", tmp_path / "model.o").decode()
    data = device_file(folder)
    (symbol,) = re.findall(r"^(\w+) g +O (\S+)\s(\w+) model$", table, re.M)
    assert (symbol[1], int(symbol[2], 16)) == (".rodata.model", len(data))
    sections = compilers.run("arm-none-eabi-objdump", "-h", tmp_path / "model.o")
    (alignment,) = re.findall(r"\.rodata\.model .*2\*\*(\d)", sections.decode())
    assert 2 ** int(alignment) == 16
    image = tmp_path / "image"
    compilers.run(
        *("arm-none-eabi-objcopy", "-O", "binary", "-j", ".rodata.model"),
        *(tmp_path / "model.o", image),
    )
    assert image.read_bytes() == data


@pytest.mark.parametrize("namespaces", [(), ("-DSTAND_IN_FLAT",)])
@pytest.mark.parametrize("processor", compilers.CORTEX_M)
def test_the_example_compiles_for_a_cortex_m(folder, tmp_path, processor, namespaces):
    includes = ("-I", folder, "-I", compilers.STAND_IN)
    compilers.cross(
        *(processor, *namespaces, *includes, "-c", EXAMPLE, "-o", tmp_path / "main.o")
    )


def test_what_the_documentation_shows_compiles(folders, tmp_path):
    decoding, setup = re.findall(r"```cpp\n(.*?)```", DOCUMENT.read_text(), re.S)
    include, body = setup.split("\n", 1)
    source = tmp_path / "shown.cc"
    source.write_text(
        f"{include}\n#include <cmath>\n"
        '#include "tensorflow/lite/micro/micro_interpreter.h"\n'
        f"void shown(float value) {{\n{body}\n{decoding}\n}}\n"
    )
    includes = ("-I", folders["encoded"], "-I", compilers.STAND_IN)
    compilers.host("-DSTAND_IN_FLAT", "-fsyntax-only", *includes, source)


@pytest.mark.parametrize("processor", compilers.CORTEX_M)
def test_a_cortex_m_reads_the_file_and_the_vector(folder, tmp_path, processor):
    """Emulated: the array as it stands in memory, and the comparison's results."""
    program = tmp_path / "program.elf"
    compilers.cross(
        *(processor, "-nostdlib", "-I", folder, "-T", CORTEX_M / "memory.ld"),
        *(CORTEX_M / "main.cc", folder / "model.cc", folder / "model_test.cc"),
        *("-lgcc", "-o", program),
    )
    assert compilers.emulate(processor, program) == device_file(folder)
