"""What reads files and answers of models, on what no honest writer makes: a refusal on purpose, or a value.

Each test has a small form, and a long one for the nightly run. hypothesis prints what reproduces a failure.
"""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import ModelError
from quire.models.config_reader import Fields
from quire.models.quant.config import read_quantization
from quire.models.safetensors_reader import TensorReader, stored_tensors
from quire.server.config.plan import ConfigError
from quire.server.config.text_format import parse_text
from quire.server.config.triton_repository import read_repository
from quire.server.tool_parsers import TOOL_PARSERS

from .server.test_model_repository import CONFIG, write
from .server.test_tools_parsers import read

few_or_many = pytest.mark.parametrize("num", [60, pytest.param(5000, marks=pytest.mark.nightly)])
numbers = st.one_of(
    st.integers(-2, 40), st.sampled_from([2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30])
)
odd_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def fuzz(num: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Runs a check on so many examples, without a limit of time."""
    every = settings(max_examples=num, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    every(given(strategy)(check))()


@few_or_many
def test_headers_of_safetensors(num: int) -> None:
    offsets = st.lists(numbers, max_size=3) | st.tuples(st.integers(0, 16), st.integers(0, 64)).map(list)
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "I8", "U64", "F8_E4M3", "BOOL", "X", ""]) | odd_values,
            "shape": st.lists(numbers, max_size=5) | odd_values,
            "data_offsets": offsets | odd_values,
            "other": odd_values,
        },
    )
    metadata = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | odd_values, max_size=2)
    names = st.sampled_from(["a", "b", "model.embed_tokens.weight", "", "../x", "\0"])
    header = st.dictionaries(names, entry, max_size=4) | odd_values
    parts = st.tuples(header, metadata | st.none(), numbers | st.none(), st.binary(max_size=64))

    def check(drawn: tuple[Any, Any, int | None, bytes]) -> None:
        header, metadata, length, data = drawn
        if isinstance(header, dict) and metadata is not None:
            header = header | {"__metadata__": metadata}
        content = json.dumps(header).encode()
        announced = len(content) if length is None else length % 2**64
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "model.safetensors").write_bytes(struct.pack("<Q", announced) + content + data)
            try:
                reader = TensorReader()
                for tensor in stored_tensors(Path(folder)).values():
                    reader.read(tensor)
            except ModelError:
                pass

    fuzz(num, parts, check)


@few_or_many
def test_quantization_configs(num: int) -> None:
    """AWQ's, GPTQ's and compressed-tensors': every key with a good value, or with any."""
    small = st.sampled_from([0, 1, 2, 3, 4, 8, 32, 64, 128, -1, 2**40])
    words = st.lists(
        st.sampled_from(["lm_head", "re:.*mlp.*", "re:(", "Linear", "", "model.layers.0"]), max_size=3
    )
    weights = st.fixed_dictionaries(
        {},
        optional={
            "num_bits": small,
            "type": st.sampled_from(["int", "float"]),
            "symmetric": st.booleans(),
            "strategy": st.sampled_from(["group", "channel", "tensor"]),
            "group_size": small,
            "actorder": st.sampled_from(["group", "weight", None]),
            "dynamic": st.booleans(),
        },
    )
    group = st.fixed_dictionaries(
        {"targets": words | odd_values, "weights": weights | odd_values},
        optional={"input_activations": odd_values, "format": st.just("pack-quantized") | odd_values},
    )
    good: dict[str, st.SearchStrategy[Any]] = {
        "quant_method": st.sampled_from(["awq", "gptq", "compressed-tensors", "fp8", "bitsandbytes"]),
        "bits": small,
        "w_bit": small,
        "group_size": small,
        "q_group_size": small,
        "zero_point": st.booleans(),
        "sym": st.booleans(),
        "desc_act": st.booleans(),
        "version": st.sampled_from(["gemm", "gemv", "GEMM"]),
        "checkpoint_format": st.sampled_from(["gptq", "gptq_v2"]),
        "modules_to_not_convert": words,
        "ignore": words,
        "dynamic": st.dictionaries(st.sampled_from(["+:.*", "-:lm_head", "+:(", ""]), odd_values, max_size=2),
        "format": st.sampled_from(["pack-quantized", "int-quantized", "float-quantized"]),
        "config_groups": st.dictionaries(st.text(max_size=3), group, max_size=2),
    }
    config = st.fixed_dictionaries({}, optional={name: value | odd_values for name, value in good.items()})

    def check(config: Any) -> None:
        try:
            found = read_quantization(Fields({"quantization_config": config}, "config.json"))
        except ModelError:
            return
        if found is not None:
            found.scheme("model.layers.0.mlp.up_proj")

    fuzz(num, config | odd_values, check)


def spoilt(text: str) -> st.SearchStrategy[str]:
    """A text with some pieces taken out, doubled or replaced."""
    place = st.integers(0, len(text))
    edit = st.tuples(place, place, st.text(alphabet="{}[]:,\"'\\#\n x0-.e", max_size=4) | st.text(max_size=2))

    def apply(edits: list[tuple[int, int, str]]) -> str:
        result = text
        for start, stop, new in edits:
            result = result[:start] + new + result[start + (stop % 9) :]
        return result

    return st.lists(edit, min_size=1, max_size=4).map(apply)


@few_or_many
def test_tritons_model_configurations(num: int) -> None:
    def check(text: str) -> None:
        try:
            parse_text(text, "config.pbtxt")
        except ConfigError:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                write(Path(folder), "scores", text, "1", "2", "10")
            except UnicodeEncodeError:
                return
            with contextlib.suppress(ConfigError, ModelError):
                read_repository(Path(folder))

    fuzz(num, spoilt(CONFIG), check)


SOUP = (
    *(
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "<|channel|>",
        "<|message|>",
        "<|call|>",
    ),
    *(
        '{"name": "f", "arguments": {"x": 1}}',
        '{"name": "f", "parameters": ',
        '"arguments"',
        "commentary to=f",
    ),
    *("{", "}", "[", "]", '"', "\\", ":", ",", " ", "\n", "null", "1e5", "é", "\U0001f600", "f", "text"),
)


@few_or_many
@pytest.mark.parametrize("name", sorted(TOOL_PARSERS))
def test_parsers_of_calls(name: str, num: int) -> None:
    """Nothing that a model writes is an error, or is read otherwise when it comes in other pieces."""

    def check(drawn: tuple[list[str], list[int]]) -> None:
        text = "".join(drawn[0])
        whole = read(name, [text])
        cuts = sorted({cut % (len(text) + 1) for cut in drawn[1]})
        bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
        cut = read(name, [text[start:stop] for start, stop in bounds if start < stop])
        assert (cut.content, cut.calls) == (whole.content, whole.calls)

    pieces = st.lists(st.sampled_from(SOUP) | st.text(max_size=3), max_size=12)
    fuzz(num, st.tuples(pieces, st.lists(st.integers(0, 200), max_size=8)), check)
