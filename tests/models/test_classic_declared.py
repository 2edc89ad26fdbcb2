"""Classic models behind tensors of other names, datatypes and ranks than their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quire.errors import ModelError
from quire.models.classic.declared import as_declared
from quire.models.classic.predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec


class Sums(Predictor):
    """`sum` FP64 [rows] of `a` FP64 [rows, 2] and `b` INT64 [rows, 1]; `text` BYTES [rows]."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Sums:
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        assert (inputs["a"].dtype, inputs["b"].dtype) == (np.float64, np.int64)
        total = inputs["a"].sum(axis=1) + inputs["b"][:, 0]
        return {"sum": total, "text": np.array([b"t"] * len(total), dtype=object)}

    def describe(self) -> Description:
        return Description(
            (TensorSpec("a", "FP64", (-1, 2)), TensorSpec("b", "INT64", (-1, 1))),
            (TensorSpec("sum", "FP64", (-1,)), TensorSpec("text", "BYTES", (-1,))),
        )

    def unload(self) -> None:
        pass


def declared(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Predictor:
    return as_declared(Sums(), LoadOptions(inputs=inputs, outputs=outputs), Path("m"))


FIRST, SECOND = TensorSpec("input__0", "FP32", (-1, 2)), TensorSpec("input__1", "INT32", (-1, 1))


def test_without_a_declaration_a_model_is_as_it_is() -> None:
    assert isinstance(declared(), Sums)


def test_tensors_are_found_by_their_places_and_converted() -> None:
    predictor = declared(FIRST, SECOND, outputs=(TensorSpec("output__0", "FP32", (-1, 1)),))
    assert predictor.describe() == Description(
        (FIRST, SECOND), (TensorSpec("output__0", "FP32", (-1, 1)),), batched=True
    )
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[10], [20]], np.int32)
    answer = predictor.predict({"input__0": a, "input__1": b})
    assert answer.keys() == {"output__0"}
    assert answer["output__0"].dtype == np.float32
    assert answer["output__0"].tolist() == [[13], [27]]


def test_tensors_are_found_by_their_names() -> None:
    predictor = declared(
        TensorSpec("b", "INT8", (-1, 1)),
        TensorSpec("a", "FP64", (-1, -1)),
        outputs=(TensorSpec("text", "BYTES", (-1,)),),
    )
    answer = predictor.predict({"a": np.ones((1, 2)), "b": np.ones((1, 1), np.int8)})
    assert answer["text"].tolist() == [b"t"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([FIRST], [], r"m has the inputs \['a', 'b'\], not \['input__0'\]"),
        ([TensorSpec("a", "FP64", (-1, 2)), SECOND], [], "m has the inputs"),
        ([FIRST, TensorSpec("x", "INT8", (-1, 3))], [], r"input x has the shape \[-1, 1\], not \[-1, 3\]"),
        ([FIRST, TensorSpec("x", "INT8", (-1,))], [], "input x has the shape"),
        ([FIRST, TensorSpec("x", "BYTES", (-1, 1))], [], "input x is INT64, not BYTES"),
        ([FIRST, TensorSpec("input__0", "INT8", (-1, 1))], [], "an input is declared twice"),
        ([], [TensorSpec("sum", "FP64", (-1, 2))], "output sum has the shape"),
        ([], [TensorSpec("text", "FP64", (-1,))], "output text is BYTES, not FP64"),
        ([], [TensorSpec(name, "FP64", (-1,)) for name in "xyz"], "m has the outputs"),
    ],
)
def test_tensors_that_are_not_the_models(
    inputs: list[TensorSpec], outputs: list[TensorSpec], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        declared(*inputs, outputs=tuple(outputs))
