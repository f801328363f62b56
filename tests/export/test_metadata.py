"""Labels in a file: where readers look for them, and in nobody's way."""

import io
import json
import pathlib
import shutil
import struct
import zipfile

import compilers
import flatbuffers
import keras
import nets
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from files import in_tflm
from flatbuffers.table import Table
from tools import need

from kprune.export import export, tflite
from kprune.export.baseline import without_zeros
from kprune.export.labels import Labels
from kprune.export.metadata import append, appended, labels_of, with_labels
from kprune.export.packing import unpack
from kprune.export.slim import slim

L = keras.layers
NAMES = ("cat", "guinea pig", "weiß")
KIND = Labels("kind", NAMES)


@pytest.fixture(scope="module")
def plain():
    return nets.converted(nets.two_inputs(), "dynamic")


@pytest.fixture(scope="module")
def labelled(plain):
    return with_labels(plain, KIND, "a model", "what it is")


def metadata(data):
    """The bytes of the file's metadata."""
    model = unpack(data)
    (entry,) = [item for item in model.metadata if item.name == b"TFLITE_METADATA"]
    return bytes(model.buffers[entry.buffer].data)


class Read:
    """A table of a flatbuffer, read by the format alone: no code of the writer's."""

    def __init__(self, data, place):
        self.table = Table(data, place)

    def place(self, field):
        """Where a field stands; 0 if it is left out."""
        offset = self.table.Offset(4 + 2 * field)
        return offset and self.table.Pos + offset

    def text(self, field):
        place = self.place(field)
        return self.table.String(place).decode() if place else None

    def number(self, field):
        place = self.place(field)
        return (
            self.table.Get(flatbuffers.number_types.Uint8Flags, place) if place else 0
        )

    def tables(self, field):
        offset = self.table.Offset(4 + 2 * field)
        if not offset:
            return []
        start = self.table.Vector(offset)
        places = range(start, start + 4 * self.table.VectorLen(offset), 4)
        return [Read(self.table.Bytes, self.table.Indirect(place)) for place in places]

    def one(self, field):
        return Read(self.table.Bytes, self.table.Indirect(self.place(field)))


def test_the_metadata_is_what_the_schema_says(labelled):
    """Positions of fields are those of metadata_schema.fbs."""
    data = metadata(labelled)
    assert data[4:8] == b"M001"
    (root,) = struct.unpack_from("<I", data)
    model = Read(data, root)
    assert (model.text(0), model.text(1)) == ("a model", "what it is")
    assert model.text(2) is None and model.text(7) == "1.0.0"
    (graph,) = model.tables(3)
    found = [
        (t.text(0), t.text(1), t.one(3).number(0), len(t.tables(6)))
        for field in (2, 3)
        for t in graph.tables(field)
    ]
    assert found == [
        ("pixels", "float32 of shape (1, 6, 6, 2)", 1, 0),
        ("facts", "float32 of shape (1, 5)", 1, 0),
        ("price", "float32 of shape (1, 1)", 1, 0),
        ("kind", "float32 of shape (1, 3)", 1, 1),
    ]
    (file,) = graph.tables(3)[1].tables(6)
    assert (file.text(0), file.number(2)) == ("labels.txt", 2)


def test_tensors_are_described_in_the_order_of_the_file(labelled):
    """Readers find them by their index there, whatever the signature's order."""
    file = tflite.parse(labelled)
    named = {i: name for name, i in file.signatures[0].outputs.items()}
    assert [named[i] for i in file.subgraphs[0].outputs] == ["price", "kind"]


def test_the_compiler_of_flatbuffers_reads_the_metadata(labelled, tmp_path):
    """Its checks of all offsets pass, and it finds what was written."""
    need("flatbuffers-compiler", shutil.which("flatc"))
    schema = pathlib.Path(__file__).with_name("metadata_excerpt.fbs")
    (tmp_path / "found.bin").write_bytes(metadata(labelled))
    compilers.run(
        *("flatc", "--json", "--strict-json", "--raw-binary", "-o", tmp_path),
        *(schema, "--", tmp_path / "found.bin"),
    )
    found = json.loads((tmp_path / "found.json").read_text())
    kind = found["subgraph_metadata"][0]["output_tensor_metadata"][1]
    assert kind["associated_files"][0]["type"] == "TENSOR_AXIS_LABELS"
    assert kind["content"]["content_properties_type"] == "FeatureProperties"


def test_the_labels_are_a_file_behind_the_model(labelled):
    with zipfile.ZipFile(io.BytesIO(labelled)) as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "labels.txt"
        assert entry.compress_type == zipfile.ZIP_STORED
        assert archive.read(entry).decode() == "cat\nguinea pig\nweiß\n"
    assert labels_of(labelled) == NAMES


def test_places_in_the_archive_count_from_the_models_first_byte(labelled):
    """Android's readers take them literally; Python's would forgive other ones."""
    end = len(labelled) - 22
    assert labelled[end : end + 4] == b"PK\5\6"
    (directory,) = struct.unpack_from("<I", labelled, end + 16)
    assert labelled[directory : directory + 4] == b"PK\1\2"
    (entry,) = struct.unpack_from("<I", labelled, directory + 42)
    assert labelled[entry : entry + 4] == b"PK\3\4"
    assert labelled[entry + 30 : entry + 40] == b"labels.txt"


def test_equal_models_make_equal_files(plain, labelled):
    assert with_labels(plain, KIND, "a model", "what it is") == labelled


def test_buffers_are_aligned(labelled):
    start = np.frombuffer(labelled, np.uint8).__array_interface__["data"][0]
    for tensor in tflite.parse(labelled).weights():
        assert (tensor.values.__array_interface__["data"][0] - start) % 16 == 0


def test_the_model_is_as_it_was(plain, labelled):
    first, second = tflite.parse(plain), tflite.parse(labelled)
    assert first.signatures == second.signatures
    assert first.operator_counts() == second.operator_counts()
    for one, other in zip(
        first.subgraphs[0].tensors, second.subgraphs[0].tensors, strict=True
    ):
        assert (one.name, one.shape, one.type) == (other.name, other.shape, other.type)
        np.testing.assert_array_equal(one.values, other.values)


def outputs(data, path=None):
    """What LiteRT computes, all inputs and outputs by name."""
    source = {"model_content": data} if path is None else {"model_path": str(path)}
    runner = Interpreter(**source).get_signature_runner("serving_default")
    return runner(**{k: v[:1] for k, v in nets.two_inputs_data().items()})


def test_litert_computes_the_same(plain, labelled, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(labelled)
    expected = outputs(plain)
    assert sorted(expected) == ["kind", "price"]
    for found in (outputs(labelled), outputs(b"", path)):
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_tensorflow_lite_micro_is_not_disturbed(quantization):
    data = nets.converted(nets.cnn(), quantization, nets.images(), integer_io=True)
    found = with_labels(data, Labels("output", NAMES), "cnn", "")
    expected = in_tflm(data, nets.images(4))
    np.testing.assert_array_equal(in_tflm(found, nets.images(4)), expected)


def test_a_slim_file_keeps_metadata_and_labels(labelled):
    smaller = slim(labelled)
    assert len(smaller) < len(labelled)
    assert labels_of(smaller) == NAMES
    assert metadata(smaller) == metadata(labelled)
    test_places_in_the_archive_count_from_the_models_first_byte(smaller)


def test_filling_zeros_keeps_labels():
    data = nets.converted(nets.cnn(), "none")
    found = without_zeros(with_labels(data, Labels("output", NAMES), "cnn", ""))
    assert labels_of(found) == NAMES
    kernels = [t for t in tflite.parse(found).weights() if len(t.shape) > 1]
    assert len(kernels) == 4 and all(t.values.all() for t in kernels)


def test_a_file_without_an_archive_has_no_labels(plain):
    assert appended(plain) == {}
    assert labels_of(plain) == ()
    assert append(plain, {}) is plain


def compressed(data):
    result = io.BytesIO(data)
    with zipfile.ZipFile(result, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "a" * 100_000)
    return result.getvalue()


def shared(data):
    """Its directory names the same bytes many times."""
    whole = append(data, {"labels.txt": b"a" * 4000})
    directory, end = whole.index(b"PK\1\2", len(data)), len(whole) - 22
    count, size = 1000, end - directory
    record = bytearray(whole[end:])
    struct.pack_into("<HHI", record, 8, count, count, count * size)
    return whole[:directory] + count * whole[directory:end] + bytes(record)


def changed(data, place, value):
    result = bytearray(data)
    result[place : place + len(value)] = value
    return bytes(result)


@pytest.mark.parametrize(
    "hostile",
    [
        compressed,
        shared,
        lambda data: changed(
            append(data, {"labels.txt": b"a"}), -6, b"\xff\xff\xff\x7f"
        ),
        lambda data: changed(append(data, {"labels.txt": b"abcdef"}), len(data), b"XX"),
        lambda data: data + b"PK\5\6" + 18 * b"\xff",
        lambda data: data + b"PK\5\6" + 18 * b"\0",
    ],
)
def test_archives_that_are_none_do_no_harm(plain, hostile):
    data = hostile(plain)
    assert labels_of(data) == ()
    assert slim(data) in (data, slim(plain))


def test_damaged_archives_end_in_labels_or_none(plain):
    whole = append(plain, {"labels.txt": b"cat\n"})
    random = np.random.default_rng(0)
    for _ in range(500):
        place = random.integers(len(plain), len(whole))
        data = changed(whole, place, bytes([random.integers(256)]))
        assert isinstance(labels_of(data), tuple)


def test_an_output_that_stands_twice_has_its_labels():
    inputs = L.Input((4,), name="x")
    scores = L.Dense(3, name="scores")(inputs)
    data = nets.converted(keras.Model(inputs, [scores, scores]), "none")
    name = next(iter(tflite.parse(data).signatures[0].outputs))
    found = with_labels(data, Labels(name, NAMES), "twice", "")
    assert labels_of(found) == NAMES


def test_export_puts_labels_where_the_report_says(tmp_path):
    path = tmp_path / "m.tflite"
    report = export(nets.cnn(), path, benchmark=False, labels=NAMES)
    assert report.labels == labels_of(path.read_bytes()) == NAMES
    assert "3 labels of output 'output' are in the file" in str(report)
    text = Read(metadata(path.read_bytes()), 0)
    (root,) = struct.unpack_from("<I", text.table.Bytes)
    model = Read(text.table.Bytes, root)
    assert model.text(0) == "cnn"
    total, zeros = report.parameters, report.parameters - report.nonzero_parameters
    assert f"{zeros:,} of {total:,} parameters are zero; dynamic." in model.text(1)


def test_a_slim_export_is_smaller_and_has_its_labels(tmp_path):
    sizes = {}
    for slimmed in (False, True):
        path = tmp_path / f"m{slimmed}.tflite"
        export(nets.cnn(), path, benchmark=False, labels=NAMES, slim=slimmed)
        assert labels_of(path.read_bytes()) == NAMES
        sizes[slimmed] = path.stat().st_size
    assert sizes[True] < sizes[False]


def test_without_labels_the_file_is_the_converters(tmp_path):
    model, path = nets.cnn(), tmp_path / "m.tflite"
    report = export(model, path, quantization="none", benchmark=False)
    assert path.read_bytes() == nets.converted(model, "none")
    assert report.labels == () and " labels " not in str(report)


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (nets.cnn, ["a", "b"], "2 names, .* 'output', has 3 entries"),
        (nets.cnn, ["a", "b", "a"], "3 names, of which 2 differ"),
        (nets.two_inputs, ["a"], "1 names, .* 'kind', has 3 entries"),
        (nets.cnn, "nowhere.txt", "Cannot read `labels`"),
    ],
)
def test_labels_that_do_not_fit_write_nothing(tmp_path, model, labels, words):
    with pytest.raises(ValueError, match=words):
        export(model(), tmp_path / "m.tflite", benchmark=False, labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_labels_for_a_picture_of_classes_are_refused(tmp_path):
    model = keras.Sequential([L.Input((4, 4, 1)), L.Conv2D(3, 1)])
    with pytest.raises(ValueError, match=r"has the shape \(4, 4, 3\)"):
        export(model, tmp_path / "m.tflite", benchmark=False, labels=NAMES)


@pytest.mark.parametrize("target", ["microcontroller", "ethos-u55-128"])
def test_a_microcontrollers_file_holds_no_labels(tmp_path, target):
    with pytest.raises(ValueError, match="stand in the header"):
        export(
            *(nets.cnn(), tmp_path / "m.tflite", target, None, nets.images()),
            c_source=False,
            labels=NAMES,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_archive_within_the_model_is_not_gone_on_with(plain):
    inner = append(plain, {"labels.txt": b"in the model\n"})
    both = append(inner, {"labels.txt": b"behind it\n"})
    assert appended(both) == {"labels.txt": b"behind it\n"}
    assert both[: len(inner)] == inner
