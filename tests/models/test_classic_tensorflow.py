"""TensorFlow SavedModels: trust first; what they compute, where TensorFlow is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import EngineError, ModelError, UntrustedModel
from quire.models.classic.digests import sha256_of
from quire.models.classic.predictor import LoadOptions, TensorSpec
from quire.models.classic.runtimes import load_predictor, runtime_of


def test_a_folder_needs_trust_and_its_digest(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert runtime_of(tmp_path) == "tensorflow"
    digest = sha256_of(tmp_path)
    for options in (LoadOptions(), LoadOptions(trust=True), LoadOptions(sha256=digest)):
        with pytest.raises(UntrustedModel, match="SavedModel: loading it runs code"):
            load_predictor(tmp_path, options)
    (tmp_path / "variables.data").write_bytes(b"")
    with pytest.raises(ModelError, match="sha256"):
        load_predictor(tmp_path, LoadOptions(trust=True, sha256=digest))


def test_parameters_are_checked_by_name(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"colour": 1}, "colour"),
        ({"signature": 1}, "signature must be a text, not 1"),
        ({"tags": "serve"}, "tags must be a list of texts, not 'serve'"),
        ({"tags": [1]}, "tags must be"),
    ]
    for parameters, text in wrong:
        with pytest.raises(ModelError, match=text):
            load_predictor(tmp_path, LoadOptions(parameters=parameters))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tf: Any = pytest.importorskip(
        "tensorflow", reason="tensorflow is not installed: pip install tensorflow-cpu"
    )
    # As a worker sets it before all else: TensorFlow takes it once a process.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")

    class Model(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def linear(self, x: Any) -> Any:
            return {"y": x @ self.w}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="t")])
        def upper(self, t: Any) -> Any:
            return {"upper": tf.strings.upper(t), "length": tf.strings.length(t)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="i")])
        def gather(self, i: Any) -> Any:
            return {"row": tf.gather(self.w, i)}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
        def any_rank(self, x: Any) -> Any:
            return {"y": x}

    folder, model = tmp_path_factory.mktemp("saved") / "1", Model()
    signatures = {
        "serving_default": model.linear,
        "upper": model.upper,
        "gather": model.gather,
        "any_rank": model.any_rank,
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return folder


def options(folder: Path, **parameters: Any) -> LoadOptions:
    return LoadOptions(trust=True, sha256=sha256_of(folder), parameters=parameters)


# TensorFlow takes more than a gigabyte, and `make install` does not bring it.
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
class TestWithTensorFlow:
    def test_a_signature_computes_what_it_says(self, saved: Path) -> None:
        predictor = load_predictor(saved, options(saved))
        assert predictor.describe().inputs == (TensorSpec("x", "FP32", (-1, 3)),)
        assert predictor.describe().outputs == (TensorSpec("y", "FP32", (-1, 2)),)
        assert predictor.describe().batched
        x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        x.flags.writeable = False
        expected = x @ np.array([[1, 0], [0, 1], [2, 2]], np.float32)
        np.testing.assert_allclose(predictor.predict({"x": x})["y"], expected, rtol=1e-5)
        predictor.unload()

    def test_another_signature_has_texts(self, saved: Path) -> None:
        predictor = load_predictor(saved, options(saved, signature="upper", tags=["serve"]))
        assert {spec.name: spec.datatype for spec in predictor.describe().outputs} == {
            "length": "INT32",
            "upper": "BYTES",
        }
        outputs = predictor.predict({"t": np.array([b"ab\0", b""], dtype=object)})
        assert outputs["upper"].tolist() == [b"AB\0", b""]
        assert outputs["length"].tolist() == [3, 0]

    def test_a_request_that_the_graph_refuses_is_an_engine_error(self, saved: Path) -> None:
        predictor = load_predictor(saved, options(saved, signature="gather"))
        assert predictor.predict({"i": np.array([2], np.int32)})["row"].tolist() == [[2.0, 2.0]]
        with pytest.raises(EngineError, match="indices"):
            predictor.predict({"i": np.array([7], np.int32)})

    def test_what_cannot_be_served_is_refused_by_name(self, saved: Path, tmp_path: Path) -> None:
        for parameters, text in (
            ({"signature": "absent"}, r"no signature 'absent', only \['any_rank', 'gather'"),
            ({"signature": "any_rank"}, "no fixed number of dimensions"),
            ({"tags": ["gpu"]}, "cannot be loaded"),
        ):
            with pytest.raises(ModelError, match=text):
                load_predictor(saved, options(saved, **parameters))
        (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_predictor(tmp_path, options(tmp_path))
