"""Triton's model repositories and TensorFlow Serving's folders, read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.engine.batch_queue import BatchingConfig, QueuePolicy
from quire.engine.model_registry import ClassicModelConfig
from quire.models.classic.predictor import TensorSpec
from quire.server.config.plan import ConfigError
from quire.server.config.text_format import Word, parse_text
from quire.server.config.tf_serving_folders import read_folders
from quire.server.config.triton_repository import read_repository


def test_text_format() -> None:
    message = parse_text(
        r"""
        # a comment
        name: "it\'s" ' one'  # two strings are one
        size: -12, ratio: 1.5e3; mask: 0x1F octal: 017 half: .5f
        kind: KIND_CPU on: true
        dims: [ 1, -1 , 3 ] dims: 4
        empty: []
        inner { deep < x: "\x41\303\244\n" > }
        inner: { y: 2 }
        """,
        "it",
    )
    assert message == {
        "name": ["it's one"],
        "size": [-12],
        "ratio": [1500.0],
        "mask": [31],
        "octal": [15],
        "half": [0.5],
        "kind": [Word("KIND_CPU")],
        "on": [Word("true")],
        "dims": [1, -1, 3, 4],
        "empty": [],
        "inner": [{"deep": [{"x": ["Aä\n"]}]}, {"y": [2]}],
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a", "line 1: a field's name must be followed by"),
        ("a:", "a value is missing"),
        ("\na: }", "line 2: } is no value"),
        ("a {", "} is missing"),
        ("a { b: 1 >", "the name of a field is expected, not '>'"),
        ("}", "the name of a field is expected"),
        ("a: [1 2]", "separated by commas"),
        ("a: [1,", "a value is missing"),
        ('a: "x', "is not understood"),
        ("a: 08", "08 is no number"),
        ('a: "\\x"', "holds an escape that is none"),
        ('a: "\\s"', "holds an escape that is none"),
        ('a: "\\777"', "holds an escape that is none"),
        ('a: "\\377"', "is not UTF-8"),
        ("[a/b]: 1", "'/b]: 1' is not understood"),
        ("[a]: 1", "the name of a field is expected, not '['"),
        ("a: $", "'$' is not understood"),
        ("a {" * 40, "nested too deeply"),
        ("a: [" * 10, "separated by commas"),
        ("a" * (1 << 21), "more than 1048576 characters"),
    ],
)
def test_what_is_no_text_format(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text, "it")
    assert what in caught.value.message
    assert caught.value.message.startswith("it")


CONFIG = """
name: "scores"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [
  { name: "y" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "text" data_type: TYPE_STRING dims: [ -1 ] }
]
instance_group [ { count: 2 kind: KIND_CPU }, { name: "more" } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: true
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy {
    timeout_action: DELAY
    default_timeout_microseconds: 7
    allow_timeout_override: true
    max_queue_size: 5
  }
}
version_policy: { latest { num_versions: 2 } }
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
model_warmup {
  name: "big"
  batch_size: 8
  count: 2
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3 ] random_data: true } }
}
model_warmup {
  name: "row"
  inputs: { key: "x", value: { data_type: TYPE_FP32, dims: 3, input_data_file: "row.bin" } }
}
optimization { }
"""


def write(folder: Path, name: str, config: str | None, *versions: str, file: str = "model.onnx") -> Path:
    """A model's folder, with empty files."""
    for version in versions:
        path = folder / name / version / file
        path.parent.mkdir(parents=True)
        path.touch()
    if config is not None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.pbtxt").write_text(config)
    return folder / name


def configs(folder: Path) -> list[ClassicModelConfig]:
    found: list[Any] = [spec.config for spec in read_repository(folder)]
    return found


def test_a_whole_configuration(tmp_path: Path) -> None:
    write(tmp_path, "scores", CONFIG, "1", "2", "10")
    (tmp_path / "scores" / "notes").mkdir()
    second, third = configs(tmp_path)
    assert (second.name, second.version, third.version) == ("scores", "2", "10")
    workers = third.workers
    assert (workers.path, workers.runtime) == (tmp_path / "scores/10/model.onnx", "onnx")
    assert (workers.instances, workers.options.num_threads) == (3, 3)
    assert workers.options.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert workers.options.outputs == (
        TensorSpec("y", "INT64", (-1, 1)),
        TensorSpec("text", "BYTES", (-1, -1)),
    )
    assert third.batching == BatchingConfig(
        max_batch_size=16,
        preferred_batch_size=(4, 8),
        max_queue_delay_microseconds=100,
        preserve_ordering=True,
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy=QueuePolicy(
            timeout_action="delay",
            default_timeout_microseconds=7,
            allow_timeout_override=True,
            max_queue_size=5,
        ),
    )
    big, row = workers.warmup
    assert (big.name, big.batch_size, big.count) == ("big", 8, 2)
    assert (big.inputs["x"].fill, big.inputs["x"].shape) == ("random", (3,))
    assert row.inputs["x"].file == tmp_path / "scores/warmup/row.bin"


def test_a_model_without_a_configuration_is_what_its_file_says(tmp_path: Path) -> None:
    write(tmp_path, "a", None, "1", "3")
    write(
        tmp_path,
        "b",
        'backend: "fil" parameters { key: "model_type" value { string_value: "lightgbm" } }',
        "1",
        file="model.txt",
    )
    a, b = configs(tmp_path)
    assert (a.version, a.workers.runtime, a.batching) == ("3", None, None)
    assert (b.workers.runtime, b.batching) == ("lightgbm", BatchingConfig(max_batch_size=0))


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ["3"]),
        ("version_policy { all { } }", ["1", "2", "3"]),
        ("version_policy { latest { } }", ["3"]),
        ("version_policy { latest { num_versions: 9 } }", ["1", "2", "3"]),
        ("version_policy { specific { versions: [3, 1] } }", ["1", "3"]),
    ],
)
def test_version_policies(tmp_path: Path, policy: str, versions: list[str]) -> None:
    write(tmp_path, "m", f'platform: "onnxruntime_onnx" {policy}', "1", "2", "3")
    assert [config.version for config in configs(tmp_path)] == versions


REFUSED = {
    'name: "other"': "name is 'other', and the folder's is 'm'",
    'platform: "ensemble"': "platform 'ensemble' cannot be honoured",
    'backend: "python"': "backend 'python' cannot be honoured",
    'backend: "fil"': "model_type 'xgboost' cannot be honoured",
    "max_batch_size: -1": "max_batch_size must be at least 0",
    'max_batch_size: "8"': "max_batch_size must be a whole number",
    "max_batch_size: 1 max_batch_size: 2": "max_batch_size stands there 2 times",
    "sequence_batching { }": "sequence_batching cannot be honoured",
    "ensemble_scheduling { step { } }": "ensemble_scheduling cannot be honoured",
    "optimization { graph { level: 1 } }": "optimization[0]: graph cannot be honoured",
    "response_cache { enable: true }": "response_cache[0]: enable cannot be honoured",
    "model_transaction_policy { decoupled: true }": "decoupled cannot be honoured",
    "instance_group { kind: KIND_GPU }": "kind KIND_GPU cannot be honoured",
    "instance_group { gpus: [ 0 ] }": "instance_group[0]: gpus cannot be honoured",
    "dynamic_batching { priority_queue_policy { key: 1 } }": "priority_queue_policy cannot be honoured",
    "max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }": "preferred_batch_size must be from 1",
    "max_batch_size: 4 dynamic_batching { preserve_ordering: maybe }": "preserve_ordering must be true or",
    'input { name: "x" dims: 1 }': "input[0]: data_type is missing",
    'input { name: "x" data_type: TYPE_BF16 dims: 1 }': "data_type TYPE_BF16 cannot be honoured",
    'input { name: "x" data_type: TYPE_FP32 dims: 1 optional: true }': "optional cannot be honoured",
    'input { name: "x" data_type: TYPE_FP32 dims: 1 format: FORMAT_NHWC }': "format FORMAT_NHWC cannot be",
    'output { name: "y" data_type: TYPE_FP32 label_filename: "l" }': "label_filename cannot be honoured",
    "version_policy { specific { versions: 7 } }": "there are no versions [7]",
    'parameters { key: "x" value { string_value: "y" } }': "the parameter 'x' ('y') cannot be honoured",
    'default_model_filename: "../secret"': "there is no ",
    'default_model_filename: "other.onnx"': "other.onnx",
    'model_warmup { inputs { key: "x" value { input_data_file: "../f" } } }': "must be a file of the folder",
    'model_warmup { inputs { key: "x" } }': "inputs['x'] has no value",
    "nonsense: 1": "nonsense cannot be honoured",
    "name": "line 1: a field's name must be followed by",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, text: str) -> None:
    write(tmp_path, "m", text, "1")
    with pytest.raises(ConfigError) as caught:
        read_repository(tmp_path)
    assert REFUSED[text] in caught.value.message
    assert str(tmp_path / "m") in caught.value.message


def test_repositories_without_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no models"):
        read_repository(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read .*absent"):
        read_repository(tmp_path / "absent")
    write(tmp_path, "m", "")
    with pytest.raises(ConfigError, match="has no numbered folder"):
        read_repository(tmp_path)


def test_tf_servings_folders(tmp_path: Path) -> None:
    write(tmp_path, "a", None, "1", "00000123", file="saved_model.pb")
    write(tmp_path, "b", None, "7")
    (spec,) = read_folders(f"mine={tmp_path / 'a'}")
    assert isinstance(spec.config, ClassicModelConfig)
    assert (spec.name, spec.version) == ("mine", "123")
    assert spec.config.workers.path == tmp_path / "a/00000123"
    (spec,) = read_folders(str(tmp_path / "a"))
    assert spec.name == "a"
    a, b = read_folders(str(tmp_path))
    assert (a.name, a.version, b.name, b.version) == ("a", "123", "b", "7")
    for text in (f"x={tmp_path}", f"={tmp_path / 'a'}", str(tmp_path / "a/1"), str(tmp_path / "absent")):
        with pytest.raises(ConfigError):
            read_folders(text)
    (tmp_path / "b/7/second.onnx").touch()
    with pytest.raises(ConfigError, match=r"must hold one model; it holds model.onnx, second.onnx"):
        read_folders(str(tmp_path / "b"))
