"""Warm-up requests of classic models: what their inputs are, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError
from quire.models.classic.predictor import DTYPES, Description, TensorSpec
from quire.models.classic.warm_up import WarmupInput, WarmupRequest

BATCHED = Description(
    (
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("image", "FP32", (-1, 2, 3)),
        TensorSpec("t", "BYTES", (-1,)),
    ),
    (),
)
ALONE = Description((TensorSpec("x", "FP64", (4,)),), (), batched=False)


def test_by_default_one_row_of_zeros() -> None:
    arrays = WarmupRequest().arrays(BATCHED)
    assert {name: array.shape for name, array in arrays.items()} == {
        "ids": (1, 1),
        "image": (1, 2, 3),
        "t": (1,),
    }
    assert not arrays["image"].any()
    assert arrays["t"].tolist() == [b""]
    assert WarmupRequest().arrays(ALONE)["x"].tolist() == [0.0] * 4


def test_rows_are_repeated_and_free_sizes_given() -> None:
    request = WarmupRequest(
        inputs={"ids": WarmupInput(shape=(7,)), "t": WarmupInput(values="grün")}, batch_size=3
    )
    arrays = request.arrays(BATCHED)
    assert arrays["ids"].shape == (3, 7)
    assert arrays["image"].shape == (3, 2, 3)
    assert arrays["t"].tolist() == ["grün".encode()] * 3


@pytest.mark.parametrize("kind", DTYPES)
def test_random_values_are_those_of_the_seed(kind: str) -> None:
    description = Description((TensorSpec("x", kind, (-1, 50)),), ())

    def drawn(seed: int) -> Any:
        return WarmupRequest(others=WarmupInput(fill="random", seed=seed)).arrays(description)["x"]

    first = drawn(1)
    assert first.dtype == DTYPES[kind]
    assert first.tolist() == drawn(1).tolist()
    assert first.tolist() != drawn(2).tolist()
    if kind == "BYTES":
        assert all(len(item) == 8 and item.isalpha() for item in first[0])
    else:
        assert len(set(first[0].tolist())) > 1
        assert first.min() >= 0
        assert first.max() < (1.001 if kind.startswith("FP") else 100)


@pytest.mark.parametrize("kind", [kind for kind in DTYPES if kind != "BYTES"])
def test_values_and_files_hold_the_row(kind: str, tmp_path: Path) -> None:
    description = Description((TensorSpec("x", kind, (-1, 2, 2)),), ())
    row = np.array([[0, 1], [1, 0]]).astype(DTYPES[kind])
    (tmp_path / "row").write_bytes(row.tobytes())
    for given in (
        WarmupInput(values=row.tolist()),
        WarmupInput(file=tmp_path / "row"),
        WarmupInput(file=tmp_path / "row", shape=(2, 2)),
    ):
        array = WarmupRequest(inputs={"x": given}, batch_size=2).arrays(description)["x"]
        assert array.dtype == row.dtype
        np.testing.assert_array_equal(array, [row, row])


def test_a_file_of_texts_has_lengths(tmp_path: Path) -> None:
    description = Description((TensorSpec("x", "BYTES", (-1, 2)),), ())
    (tmp_path / "texts").write_bytes(b"\x02\0\0\0ab\0\0\0\0")
    request = WarmupRequest(inputs={"x": WarmupInput(file=tmp_path / "texts")})
    assert request.arrays(description)["x"].tolist() == [[b"ab", b""]]
    for wrong in (b"\x02\0\0\0ab", b"\x02\0\0\0ab\0\0\0\0c", b"\xff\xff\xff\xffab\0\0\0\0", b""):
        (tmp_path / "texts").write_bytes(wrong)
        with pytest.raises(ModelError, match="input x"):
            request.arrays(description)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"z": WarmupInput()}, r"no inputs \['z'\]"),
        ({"image": WarmupInput(shape=(2, 4))}, r"image has shape \[1, 2, 4\]"),
        ({"image": WarmupInput(values=[[1, 2], [3]])}, "image"),
        ({"image": WarmupInput(values=["a"])}, "no array of numbers"),
        ({"image": WarmupInput(values=[[1e39] * 3] * 2)}, "do not fit float32"),
        ({"ids": WarmupInput(values=[0.5])}, "do not fit int64"),
        ({"ids": WarmupInput(values=[2**63])}, "do not fit int64"),
        ({"t": WarmupInput(values=1)}, "texts, not 1"),
        ({"ids": WarmupInput(file=Path("/nonexistent/ids"))}, "/nonexistent/ids"),
    ],
)
def test_what_does_not_fit_the_model_is_named(inputs: dict[str, WarmupInput], text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        WarmupRequest(name="first", inputs=inputs).arrays(BATCHED)
    assert str(caught.value).startswith("first: ")


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "row").write_bytes(b"\0" * 7)
    request = WarmupRequest(inputs={"image": WarmupInput(file=tmp_path / "row")})
    with pytest.raises(ModelError, match="has 7 bytes; FP32 of shape"):
        request.arrays(BATCHED)


def test_a_row_that_nobody_gave_may_not_be_huge() -> None:
    description = Description((TensorSpec("x", "FP32", (-1, 1 << 25)),), ())
    with pytest.raises(ModelError, match="input x: a row takes 134217728 bytes"):
        WarmupRequest().arrays(description)
    meant = WarmupRequest(inputs={"x": WarmupInput(shape=(1 << 25,))})
    assert meant.arrays(description)["x"].nbytes == 1 << 27


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ModelError, match="no batch dimension"):
        WarmupRequest(batch_size=2).arrays(ALONE)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"fill": "ones"}, "'ones'"),
        ({"values": [1], "file": Path("x")}, "not both"),
        ({"values": [1], "shape": (1,)}, "leave shape out"),
        ({"shape": (-1,)}, r"\[-1\]"),
    ]
    for settings, text in wrong:
        with pytest.raises(ValueError, match=text):
            WarmupInput(**settings)
    with pytest.raises(ValueError, match="batch_size of warm-up"):
        WarmupRequest(batch_size=0)
    with pytest.raises(ValueError, match="count of big"):
        WarmupRequest(name="big", count=-1)
