"""Embedding rows in Triton against the reference, for every form of the matrix."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from kernel_inputs import random
from quire.kernels import reference
from quire.kernels.types import LinearWeight, WeightFormat

IDS = torch.tensor([7, 0, 31, 7, 16])


def to_device(weight: LinearWeight, device: torch.device) -> LinearWeight:
    tensors = {f.name: getattr(weight, f.name) for f in fields(weight)}
    return replace(weight, **{k: v.to(device) for k, v in tensors.items() if isinstance(v, torch.Tensor)})


def quantized(format: WeightFormat, columns: int, group_size: int) -> LinearWeight:
    return reference.quantize_weight(random(32, columns, dtype=torch.float32), format, group_size)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_float_rows_are_copied(stored: torch.dtype, dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.embedding import embedding

    weight = to_device(LinearWeight.from_dense(random(32, 48, dtype=stored)), device)
    out = embedding(IDS.to(device), weight, dtype)
    assert out.dtype == dtype
    assert torch.equal(out, reference.embedding(IDS.to(device), weight, dtype))


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize(
    ("columns", "group_size"), [(64, 32), (48, 48), (80, 32), (1504, 128), (33, 40), (7, 8)]
)
def test_integer_rows(
    format: WeightFormat, columns: int, group_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.embedding import embedding

    weight = to_device(quantized(format, columns, group_size), device)
    expected = reference.embedding(IDS.to(device), weight, dtype)
    assert torch.equal(embedding(IDS.to(device), weight, dtype), expected)


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16])
def test_zero_points_and_an_activation_order(
    format: WeightFormat, scale_dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.embedding import embedding

    generator = torch.Generator().manual_seed(3)
    weight = quantized(format, 96, 32)
    assert weight.scales is not None
    weight.scales = weight.scales.to(scale_dtype)
    weight.zeros = torch.randint(0, 16, weight.scales.shape, generator=generator).to(torch.int16)
    weight.order = torch.randperm(96, generator=generator).to(torch.int32)
    weight = to_device(weight, device)
    expected = reference.embedding(IDS.to(device), weight, torch.float32)
    assert torch.equal(embedding(IDS.to(device), weight, torch.float32), expected)


def test_ids_with_gaps_and_none(device: torch.device) -> None:
    from quire.kernels.triton.embedding import embedding

    weight = to_device(quantized("int4", 64, 32), device)
    every_other = torch.arange(32, device=device)[::2]
    expected = reference.embedding(every_other, weight, torch.float32)
    assert torch.equal(embedding(every_other, weight, torch.float32), expected)
    assert embedding(IDS[:0].to(device), weight, torch.float32).shape == (0, 64)
