import re

import pytest

from kprune.export.choosing import choose, described, limited, target_of
from kprune.export.targets import TARGETS

BOARD = {
    "name": "board",
    "like": "microcontroller",
    "flash": 262144,
    "arena": 65536,
    "operators": ["CONV_2D", "SOFTMAX"],
    "channel_multiple": 8,
    "quantization": "int16x8",
    "slim": False,
}


def test_defaults():
    assert choose("android", None)[1] == "dynamic"
    assert choose("microcontroller", None)[1] == "int8"
    assert choose("generic", None)[1] == "none"


def test_a_misspelt_word_gets_the_nearest_right_one():
    with pytest.raises(ValueError, match="Did you mean 'microcontroller'"):
        choose("microcontoller", None)
    with pytest.raises(ValueError, match="Did you mean 'int16x8'"):
        choose("android", "int16")
    with pytest.raises(ValueError, match=re.escape("Received: 8. Expected one of")):
        choose("android", 8)


@pytest.mark.parametrize("quantization", ["float16", "dynamic"])
def test_what_the_runtime_cannot_run_is_refused_with_the_reason(quantization):
    with pytest.raises(ValueError, match="has no .*Use one of .*'int8', 'int16x8'"):
        choose("microcontroller", quantization)


def test_a_device_of_the_users_own_is_like_another_but_for_what_is_said():
    target, quantization = choose(BOARD, None)
    like = TARGETS["microcontroller"]
    assert (target.name, target.flash, target.arena) == ("board", 262144, 65536)
    assert target.operators == {"CONV_2D", "SOFTMAX"}
    assert (target.channel_multiple, target.slim, quantization) == (8, False, "int16x8")
    assert (target.runtime, target.refused) == (like.runtime, like.refused)
    assert target.integer_io and target.micro


def test_an_npu_of_the_users_own_has_its_own_system():
    target = described(
        {"name": "mine", "like": "ethos-u55-128", "system": "S", "memory": "M"}
    )
    assert (target.npu.accelerator, target.npu.system, target.npu.memory) == (
        "ethos-u55-128",
        "S",
        "M",
    )


def test_a_description_is_read_from_yaml(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(
        "name: board\nlike: microcontroller\nflash: 262144\narena: 65536\n"
        "operators: [CONV_2D, SOFTMAX]\nchannel_multiple: 8\n"
        "quantization: int16x8\nslim: false\n"
    )
    assert target_of(path) == target_of(str(path))
    read = target_of(path)
    assert read.operators_source == str(path)
    assert (read.flash, read.operators) == (262144, {"CONV_2D", "SOFTMAX"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "needs 'name', a text"),
        ({"like": None}, "needs 'like', a text"),
        ({"like": "andriod"}, "Did you mean 'android'"),
        ({"flahs": 1}, "Did you mean 'flash'"),
        ({"flash": 0}, "'flash' must be a whole number of bytes"),
        ({"arena": True}, "'arena' must be a whole number of bytes"),
        ({"arena": "64k"}, "Received: '64k'"),
        ({"slim": 1}, "'slim' must be true or false"),
        ({"operators": "CONV_2D"}, "must be a list of operators"),
        ({"operators": ["CONV2D"]}, "Did you mean 'CONV_2D'"),
        ({"operators": ["GELU"]}, "Unknown `target: operators`"),
        ({"quantization": "float16"}, "cannot run quantization='float16'"),
        ({"channel_multiple": 0}, "whole number of channels"),
        ({"system": "Fast"}, "has no NPU"),
        ({"like": "android", "operators": ["CONV2D"], "arena": 1}, "has no arena"),
    ],
)
def test_bad_descriptions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        choose({**BOARD, **change}, None)


def test_files_that_are_no_descriptions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the description"):
        choose(tmp_path / "none.yaml", None)
    path = tmp_path / "bad.yml"
    path.write_text("name: [")
    with pytest.raises(ValueError, match=r"(?s)bad\.yml' is no YAML: .*line 1"):
        choose(str(path), None)
    path.write_text("name: !!bool x")
    with pytest.raises(ValueError, match=r"bad\.yml' is no YAML: 'x'"):
        choose(str(path), None)
    path.write_text("name: &a [x]\nflash: [*a, *a]")
    with pytest.raises(ValueError, match=r"bad\.yml' has aliases: write out"):
        choose(str(path), None)
    path.write_text("- name")
    with pytest.raises(ValueError, match="Received: list"):
        choose(path, None)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="Cannot read the description"):
        choose(path, None)


def test_limits_beside_a_target():
    micro = TARGETS["microcontroller"]
    assert limited(micro, None, None) is micro
    assert limited(micro, 5, 6).flash == 5 and limited(micro, 5, 6).arena == 6
    assert limited(target_of(BOARD), 5, None).arena == 65536
    with pytest.raises(ValueError, match="LiteRT, the runtime of target='android'"):
        limited(TARGETS["android"], None, 6)
    with pytest.raises(ValueError, match="`flash` must be a whole number"):
        limited(micro, 1.5, None)
