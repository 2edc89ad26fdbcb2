"""OpenVINO models: what they compute, and crafted ones."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import InvalidRequest, ModelError
from quire.models.classic.digests import sha256_of_all
from quire.models.classic.predictor import Description, LoadOptions, TensorSpec
from quire.models.classic.runtimes import load_predictor

if importlib.util.find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

WEIGHTS = np.arange(10, dtype=np.float32).reshape(5, 2)

LINEAR = """<?xml version="1.0"?>
<net name="linear" version="11">
  <layers>
    <layer id="0" name="x" type="Parameter" version="opset1">
      <data shape="{rows},5" element_type="f32"/>
      <output><port id="0" precision="FP32" names="x"><dim>{dim}</dim><dim>5</dim></port></output>
    </layer>
    <layer id="1" name="w" type="Const" version="opset1">
      <data element_type="f32" shape="{shape}" offset="{offset}" size="{size}"/>
      <output><port id="0" precision="FP32"><dim>5</dim><dim>2</dim></port></output>
    </layer>
    <layer id="2" name="product" type="MatMul" version="opset1">
      <data transpose_a="false" transpose_b="false"/>
      <input>
        <port id="0" precision="FP32"><dim>{dim}</dim><dim>5</dim></port>
        <port id="1" precision="FP32"><dim>5</dim><dim>2</dim></port>
      </input>
      <output><port id="2" precision="FP32" names="y"><dim>{dim}</dim><dim>2</dim></port></output>
    </layer>
    <layer id="3" name="result" type="Result" version="opset1">
      <input><port id="0" precision="FP32"><dim>{dim}</dim><dim>2</dim></port></input>
    </layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
    <edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
    <edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>
  </edges>
</net>
"""

TEXTS = """<?xml version="1.0"?>
<net name="texts" version="11">
  <layers>
    <layer id="0" name="t" type="Parameter" version="opset1">
      <data shape="?" element_type="string"/>
      <output><port id="0" precision="STRING" names="t"><dim>-1</dim></port></output>
    </layer>
    <layer id="1" name="same" type="Result" version="opset1">
      <input><port id="0" precision="STRING"><dim>-1</dim></port></input>
    </layer>
  </layers>
  <edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges>
</net>
"""


def write(folder: Path, **changes: Any) -> Path:
    """y = x @ WEIGHTS, as OpenVINO writes it; the changes are to its document."""
    path = folder / "model.xml"
    fields = {"rows": "?", "dim": -1, "shape": "5, 2", "offset": 0, "size": 40, **changes}
    path.write_text(LINEAR.format(**fields))
    path.with_suffix(".bin").write_bytes(WEIGHTS.tobytes())
    return path


def test_a_model_computes_what_it_says(tmp_path: Path) -> None:
    predictor = load_predictor(write(tmp_path), LoadOptions())
    assert predictor.describe() == Description(
        (TensorSpec("x", "FP32", (-1, 5)),), (TensorSpec("y", "FP32", (-1, 2)),)
    )
    for rows in (1, 7, 3):
        x = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
        x.flags.writeable = False  # as arrays from a socket are
        np.testing.assert_allclose(predictor.predict({"x": x})["y"], x @ WEIGHTS, rtol=1e-5, atol=1e-5)
    predictor.unload()


def test_outputs_outlive_the_next_request(tmp_path: Path) -> None:
    predictor = load_predictor(write(tmp_path), LoadOptions())
    first = predictor.predict({"x": np.ones((1, 5), np.float32)})["y"]
    predictor.predict({"x": np.zeros((1, 5), np.float32)})
    assert first.tolist() == [[20.0, 25.0]]


def test_a_model_without_a_free_dimension_is_not_batched(tmp_path: Path) -> None:
    predictor = load_predictor(write(tmp_path, rows=3, dim=3), LoadOptions())
    assert not predictor.describe().batched
    assert predictor.describe().inputs[0].shape == (3, 5)


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "texts.xml").write_text(TEXTS)
    predictor = load_predictor(tmp_path / "texts.xml", LoadOptions())  # it has no .bin
    assert predictor.describe().inputs == (TensorSpec("t", "BYTES", (-1,)),)
    (output,) = predictor.describe().outputs
    texts = np.array(["grün".encode(), b"", b"abc"], dtype=object)
    assert predictor.predict({"t": texts})[output.name].tolist() == texts.tolist()
    for wrong, text in ((b"\xff", "not UTF-8"), (b"a\0", "NUL")):
        with pytest.raises(InvalidRequest, match=text):
            predictor.predict({"t": np.array([wrong], dtype=object)})


def test_its_makers_are_not_told(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from quire.models.classic.runtimes import load_predictor, LoadOptions
load_predictor(Path({str(write(tmp_path))!r}), LoadOptions())
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"offset": 4}, "40 bytes at 4; its weights have 40"),
        ({"size": 2**40, "shape": "1048576, 262144"}, "its weights have 40"),
        ({"offset": 2**64 - 8}, "its weights have 40"),
        ({"offset": -8}, "at -8"),
        ({"offset": "x"}, "without a place"),
        ({"shape": "1000000, 1000000"}, r"shape \[1000000, 1000000\] in 40 bytes"),
        ({"shape": "5, 3"}, "no OpenVINO model"),
    ],
)
def test_constants_that_reach_beyond_the_weights_are_refused(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        load_predictor(write(tmp_path, **changes), LoadOptions())


def test_flipped_truncated_and_missing_weights_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    weights = path.with_suffix(".bin")
    options = LoadOptions(sha256=sha256_of_all([path, weights]))
    load_predictor(path, options)
    data = bytearray(weights.read_bytes())
    data[17] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="sha256"):
        load_predictor(path, options)
    weights.write_bytes(data[:-4])
    with pytest.raises(ModelError, match="its weights have 36"):
        load_predictor(path, LoadOptions())
    weights.unlink()
    with pytest.raises(ModelError, match="its weights have 0"):
        load_predictor(path, LoadOptions())


def test_documents_that_are_no_models_are_refused(tmp_path: Path) -> None:
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    path = tmp_path / "model.xml"
    for content, text in (
        (f'<!DOCTYPE net [<!ENTITY e0 "e">{bomb}]><net name="&e12;" version="11"/>', "document type"),
        ('<!DOCTYPE net [<!ENTITY e SYSTEM "file:///etc/passwd">]><net>&e;</net>', "document type"),
        ("", "no OpenVINO model"),
        ("<net", "no OpenVINO model"),
        ("<html></html>", "no OpenVINO model"),
        ('<net name="old" version="7"></net>', "no OpenVINO model"),
        ('<net name="empty" version="11"></net>', "no inputs"),
        ("<a>" * 200_000, "no OpenVINO model"),
    ):
        path.write_text(content)
        with pytest.raises(ModelError, match=text):
            load_predictor(path, LoadOptions())
