"""Classic models: each runtime against its own library, and files that must not be loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import InvalidRequest, ModelError, UntrustedModel
from quire.models.classic.digests import sha256_of, sha256_of_all
from quire.models.classic.predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
)
from quire.models.classic.runtimes import load_predictor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 5))
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 1)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Scale(Predictor):
    """A predictor of the server's owner."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Scale:
        return cls(options.parameters["factor"])

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        return {"y": inputs["x"] * self.factor}

    def describe(self) -> Description:
        return Description((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))

    def unload(self) -> None:
        self.factor = 0


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm(tmp_path: Path, classes: int) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    parameters = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": 3}
    labels = LABELS.clip(max=classes - 1)
    booster = lightgbm.train({**parameters, "verbose": -1}, lightgbm.Dataset(X, labels), 5)
    booster.save_model(tmp_path / "model.txt")
    predictor = load_predictor(tmp_path / "model.txt", LoadOptions())
    assert predictor.describe().inputs == (TensorSpec("input", "FP64", (-1, 5)),)
    assert predictor.describe().outputs[0].shape == ((-1,) if classes == 2 else (-1, 3))
    np.testing.assert_array_equal(predictor.predict({"input": X})["output"], booster.predict(X))
    predictor.unload()


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("objective", ["reg:squarederror", "multi:softprob"])
def test_xgboost(tmp_path: Path, suffix: str, objective: str) -> None:
    xgboost = pytest.importorskip("xgboost")
    parameters = {"objective": objective, **({"num_class": 3} if "multi" in objective else {})}
    booster = xgboost.train(parameters, xgboost.DMatrix(X, LABELS), 5)
    path = tmp_path / f"model.{suffix}"
    booster.save_model(path)
    predictor = load_predictor(path, LoadOptions())
    rows = X.astype(np.float32)
    rows[0, 0] = np.nan
    np.testing.assert_array_equal(
        predictor.predict({"input": rows})["output"], booster.predict(xgboost.DMatrix(rows))
    )
    assert predictor.describe().outputs[0].shape == ((-1, 3) if "multi" in objective else (-1,))


def test_sklearn_classifier_with_labels_of_text(tmp_path: Path) -> None:
    pytest.importorskip("skops")
    import skops.io
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(X, np.array(["ä", "b", "c"])[LABELS])
    path = tmp_path / "model.skops"
    skops.io.dump(estimator, path)
    predictor = load_predictor(path, LoadOptions())
    outputs = predictor.predict({"input": X})
    assert [spec.datatype for spec in predictor.describe().outputs] == ["BYTES", "FP64"]
    assert [label.decode() for label in outputs["predict"]] == estimator.predict(X).tolist()
    np.testing.assert_array_equal(outputs["predict_proba"], estimator.predict_proba(X))


def test_sklearn_transformer(tmp_path: Path) -> None:
    pytest.importorskip("skops")
    import skops.io
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X)
    skops.io.dump(scaler, tmp_path / "model.skops")
    predictor = load_predictor(tmp_path / "model.skops", LoadOptions())
    np.testing.assert_array_equal(predictor.predict({"input": X})["transform"], scaler.transform(X))


def test_pickles_load_only_with_trust_and_their_digest(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    path, touched = tmp_path / "model.pkl", tmp_path / "touched"
    path.write_bytes(pickle.dumps(Touch(touched)))
    for options in (LoadOptions(), LoadOptions(trust=True), LoadOptions(sha256=sha256_of(path))):
        with pytest.raises(UntrustedModel, match="digest"):
            load_predictor(path, options)
    with pytest.raises(ModelError, match="sha256"):
        load_predictor(path, LoadOptions(trust=True, sha256="0" * 64))
    assert not touched.exists()
    estimator = linear_model.LinearRegression().fit(X, X[:, 0])
    path.write_bytes(pickle.dumps(estimator))
    predictor = load_predictor(path, LoadOptions(trust=True, sha256=sha256_of(path)))
    np.testing.assert_array_equal(predictor.predict({"input": X})["predict"], estimator.predict(X))


def test_skops_files_with_strange_types_and_bombs_are_refused(tmp_path: Path) -> None:
    skops_io = pytest.importorskip("skops.io")
    path, touched = tmp_path / "model.skops", tmp_path / "touched"
    skops_io.dump(Touch(touched), path)
    with pytest.raises(UntrustedModel, match="Touch"):
        load_predictor(path, LoadOptions())
    assert not touched.exists()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (80 << 20))
    with pytest.raises(ModelError, match="unpack"):
        load_predictor(path, LoadOptions())


def onnx_model(path: Path, location: str | None = None) -> None:
    """y = x @ w, its weights in the file or, it claims, elsewhere."""
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.eye(5, 2, dtype=np.float32), "w")
    if location is not None:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 5])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx_model(tmp_path / "model.onnx")
    predictor = load_predictor(tmp_path / "model.onnx", LoadOptions())
    rows = X.astype(np.float32)
    np.testing.assert_array_equal(predictor.predict({"x": rows})["y"], rows[:, :2])
    assert predictor.describe() == Description(
        (TensorSpec("x", "FP32", (-1, 5)),), (TensorSpec("y", "FP32", (-1, 2)),)
    )


def test_onnx_external_data_must_lie_in_the_models_folder(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    folder.mkdir()
    weights = np.eye(5, 2, dtype=np.float32).tobytes()
    (tmp_path / "w.bin").write_bytes(weights)
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    for location in ("../w.bin", str(tmp_path / "w.bin"), "link.bin"):
        onnx_model(folder / "model.onnx", location)
        with pytest.raises(UntrustedModel, match="outside"):
            load_predictor(folder / "model.onnx", LoadOptions())
    onnx_model(folder / "model.onnx", "absent.bin")
    with pytest.raises(ModelError, match="no file"):
        load_predictor(folder / "model.onnx", LoadOptions())
    (folder / "w.bin").write_bytes(weights)
    onnx_model(folder / "model.onnx", "w.bin")
    digest = sha256_of_all([folder / "model.onnx", folder / "w.bin"])
    predictor = load_predictor(folder / "model.onnx", LoadOptions(sha256=digest))
    rows = X.astype(np.float32)
    np.testing.assert_array_equal(predictor.predict({"x": rows})["y"], rows[:, :2])
    (folder / "w.bin").write_bytes(weights[:-1] + b"\1")
    with pytest.raises(ModelError, match=r"sha256 of .*model\.onnx, .*w\.bin is"):
        load_predictor(folder / "model.onnx", LoadOptions(sha256=digest))


def test_torch_export(tmp_path: Path) -> None:
    import torch

    linear = torch.nn.Linear(5, 2)
    program = torch.export.export(
        linear, (torch.zeros(3, 5),), dynamic_shapes=({0: torch.export.Dim("rows")},)
    )
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    inputs, outputs = [TensorSpec("x", "FP32", (-1, 5))], [TensorSpec("y", "FP32", (-1, 2))]
    with pytest.raises(UntrustedModel, match=r"torch\.export"):
        load_predictor(path, LoadOptions(inputs=inputs, outputs=outputs))
    with pytest.raises(ModelError, match="inputs and outputs"):
        load_predictor(path, LoadOptions(trust=True, sha256=sha256_of(path)))
    options = LoadOptions(trust=True, sha256=sha256_of(path), inputs=inputs, outputs=outputs)
    batch = X.astype(np.float32)
    output = load_predictor(path, options).predict({"x": batch})["y"]
    np.testing.assert_allclose(output, linear(torch.tensor(batch)).detach().numpy(), rtol=1e-6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with three classes and a tokenizer of letters."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {letter: n for n, letter in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        num_labels=3,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


TEXTS = ["abc", "hgfedcba", "b", "", "cab", "aä"]


def test_transformers_classification(encoder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    predictor = load_predictor(encoder, LoadOptions(parameters={"task": "classification"}))
    texts = np.array([text.encode() for text in TEXTS], dtype=object)
    scores = predictor.predict({"text": texts})["scores"]
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    for text, row in zip(TEXTS, scores, strict=True):
        ids = ["abcdefgh".index(letter) + 2 if letter in "abcdefgh" else 1 for letter in text] or [0]
        expected = model(torch.tensor([ids])).logits.softmax(-1)[0].detach().numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    with pytest.raises(InvalidRequest, match="13 tokens"):
        predictor.predict({"text": np.array([b"a" * 13], dtype=object)})
    with pytest.raises(InvalidRequest, match="text 0 is not UTF-8"):
        predictor.predict({"text": np.array([b"\xff"], dtype=object)})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_transformers_embeddings(encoder: Path, pooling: str) -> None:
    import torch
    from transformers import AutoModel

    options = LoadOptions(parameters={"task": "embedding", "pooling": pooling, "normalize": True})
    rows = load_predictor(encoder, options).predict({"text": np.array([b"abc", b"h"], dtype=object)})
    model = AutoModel.from_pretrained(encoder).eval()
    hidden = model(torch.tensor([[2, 3, 4]])).last_hidden_state[0].detach().numpy()
    expected = hidden[0] if pooling == "cls" else hidden.mean(0)
    np.testing.assert_allclose(
        rows["embedding"][0], expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-7
    )


def test_transformers_folders_with_code_pickles_or_missing_weights_are_refused(
    encoder: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    options = LoadOptions(parameters={"task": "classification"})
    folder = tmp_path / "model"
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"classifier\.weight"):
        load_predictor(folder, options)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="announces a header of"):
        load_predictor(folder, options)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UntrustedModel, match="no safetensors"):
        load_predictor(folder, options)
    config = json.loads((encoder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(UntrustedModel, match="auto_map"):
        load_predictor(folder, options)
    for parameters, text in (
        ({}, "task"),
        ({"task": "embedding", "pooling": "max"}, "max"),
        ({"task": "embedding", "colour": 1}, "colour"),
        ({"task": "classification", "normalize": True}, "normalize"),
    ):
        with pytest.raises(ModelError, match=text):
            load_predictor(encoder, LoadOptions(parameters=parameters))
    with pytest.raises(ModelError, match="sha256"):
        load_predictor(encoder, LoadOptions(parameters={"task": "embedding"}, sha256="0" * 64))


def test_a_python_class_of_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("owners_module")
    module.Scale = Scale  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "owners_module", module)
    options = LoadOptions(python_class="owners_module:Scale", parameters={"factor": 3.0})
    predictor = load_predictor(Path("."), options, "python")
    assert predictor.predict({"x": np.array([1.0, 2.0])})["y"].tolist() == [3.0, 6.0]
    for name in ("nothing", "no_such_module:Class", "pathlib:Path", "pathlib:Absent"):
        with pytest.raises(ModelError, match=name.partition(":")[0]):
            load_predictor(Path("."), LoadOptions(python_class=name), "python")


@pytest.mark.parametrize("suffix", ["txt", "json", "ubj", "skops", "onnx"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"tree\n" * 3, json.dumps({"learner": []}).encode()])
def test_files_of_rubbish_are_refused_by_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    module = {"txt": "lightgbm", "skops": "skops", "onnx": "onnxruntime"}.get(suffix, "xgboost")
    pytest.importorskip(module)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="model"):
        load_predictor(path, LoadOptions())


def test_a_runtime_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    (tmp_path / "model.txt").write_text("tree")
    with pytest.raises(ModelError, match=r"pip install quire\[lightgbm\]"):
        load_predictor(tmp_path / "model.txt", LoadOptions())


def test_options_that_a_runtime_would_ignore_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("tree")
    with pytest.raises(ModelError, match=r"lightgbm takes no parameters; there are \['colour'\]"):
        load_predictor(tmp_path / "model.txt", LoadOptions(parameters={"colour": 1}))
    with pytest.raises(ModelError, match="for the runtime python, not lightgbm: 'a:B'"):
        load_predictor(tmp_path / "model.txt", LoadOptions(python_class="a:B"))


def test_configured_tensors_must_be_as_the_model_has_them(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    onnx_model(path)
    outputs = [TensorSpec("y", "FP32", (-1, 2))]
    for right in (TensorSpec("x", "FP32", (-1, 5)), TensorSpec("x", "FP32", (8, -1))):
        load_predictor(path, LoadOptions(inputs=[right], outputs=outputs))
    for wrong, text in (
        (TensorSpec("z", "FP32", (-1, 5)), r"no tensor 'z' there, only \['x'\]"),
        (TensorSpec("x", "FP64", (-1, 5)), r"configured as FP64 \[-1, 5\]; in .* it is FP32"),
        (TensorSpec("x", "FP32", (-1, 6)), r"FP32 \[-1, 6\]; in .* it is FP32 \[-1, 5\]"),
        (TensorSpec("x", "FP32", (5,)), r"FP32 \[5\]"),
    ):
        with pytest.raises(ModelError, match=text):
            load_predictor(path, LoadOptions(inputs=[wrong]))
    with pytest.raises(ModelError, match="no tensor 'q'"):
        load_predictor(path, LoadOptions(outputs=[TensorSpec("q", "FP32", (-1,))]))


def test_files_that_no_runtime_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no runtime reads"):
        load_predictor(tmp_path / "model.exe", LoadOptions())
    with pytest.raises(ModelError, match="no file"):
        load_predictor(tmp_path / "model.onnx", LoadOptions())
    with pytest.raises(ModelError, match="no runtime 'x'"):
        load_predictor(tmp_path / "model.onnx", LoadOptions(), "x")


def test_inputs_are_checked_against_the_description() -> None:
    description = Description((TensorSpec("x", "FP32", (-1, 2)),), ())
    description.check({"x": np.zeros((3, 2), np.float32)})
    for inputs, text in (
        ({}, "missing"),
        ({"x": np.zeros((3, 2), np.float32), "z": np.zeros(1)}, r"no inputs \['z'\]"),
        ({"x": np.zeros((3, 2))}, "float64, not FP32"),
        ({"x": np.zeros((3, 3), np.float32)}, r"\[3, 3\]"),
        ({"x": np.zeros(3, np.float32)}, r"\[3\]"),
    ):
        with pytest.raises(InvalidRequest, match=text):
            description.check(inputs)
