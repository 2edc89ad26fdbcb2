"""Hostile files, for every runtime of classic models: refused, little memory taken, nothing run.

Each runtime's files are loaded in a process of its own, as they are when they are served: a sound model
first, so that the library's own memory is not counted, then the hostile ones. A library that crashes on
one ends that process alone, which a worker's start reports as a `ModelError`.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MAX_GROWTH = 64 << 20

CHILD = """
import json, resource, signal, sys
from pathlib import Path
from quire.errors import QuireError
from quire.models.classic.predictor import LoadOptions
from quire.models.classic.runtimes import load_predictor
from quire.models.classic.warm_up import WarmupRequest

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

parameters = json.loads(sys.argv[1])
start = None
for name in sys.argv[2:]:
    # Trees whose branches lead back are walked for ever; a worker that does so is killed, too.
    signal.alarm(60)
    try:
        predictor = load_predictor(Path(name), LoadOptions(parameters=parameters))
        description = predictor.describe()
        inputs = WarmupRequest().arrays(description)
        try:
            predictor.predict(inputs)
            outcome, message = "loaded", ""
        except Exception as error:  # as a worker's warm-up takes it
            outcome, message = "ModelError", repr(error)
    except QuireError as error:
        outcome, message = type(error).__name__, str(error)
    start = peak() if start is None else start
    print(json.dumps([name, outcome, message, peak() - start]), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    kind: str
    message: str
    growth: int


def outcomes(sound: Path, hostile: Sequence[Path], **parameters: Any) -> dict[str, Outcome]:
    """What became of each file: the error's name, "loaded", or "died"."""
    found: dict[str, Outcome] = {}
    left = list(hostile)
    while left:
        command = [sys.executable, "-c", CHILD, json.dumps(parameters), str(sound), *map(str, left)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        assert lines, done.stderr
        assert lines[0][1] == "loaded", lines[0]
        for name, kind, message, growth in lines[1:]:
            found[name] = Outcome(kind, message, growth)
        left = left[len(lines) - 1 :]
        if left:
            # What the library threw itself is a traceback, and no error of quire's.
            assert done.returncode < 0, done.stderr
            found[str(left.pop(0))] = Outcome("died", f"signal {-done.returncode}", 0)
    return found


def check(sound: Path, hostile: dict[Path, str], **parameters: Any) -> None:
    """Each file must be refused with an error of this name, within the memory."""
    found = outcomes(sound, list(hostile), **parameters)
    for path, kind in hostile.items():
        outcome = found[str(path)]
        print(path.name, outcome)
        assert outcome.kind == kind, (path.name, outcome)
        assert outcome.growth < MAX_GROWTH, (path.name, outcome)


RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 5))


def lightgbm_model(folder: Path) -> Path:
    lightgbm = pytest.importorskip("lightgbm")
    lightgbm.train({"verbose": -1}, lightgbm.Dataset(ROWS, ROWS[:, 0]), 5).save_model(folder / "sound.txt")
    return folder / "sound.txt"


def xgboost_json(folder: Path) -> Path:
    xgboost = pytest.importorskip("xgboost")
    xgboost.train({}, xgboost.DMatrix(ROWS, ROWS[:, 0]), 5).save_model(folder / "sound.json")
    return folder / "sound.json"


def xgboost_ubj(folder: Path) -> Path:
    xgboost = pytest.importorskip("xgboost")
    xgboost.train({}, xgboost.DMatrix(ROWS, ROWS[:, 0]), 5).save_model(folder / "sound.ubj")
    return folder / "sound.ubj"


def skops_model(folder: Path) -> Path:
    skops_io = pytest.importorskip("skops.io")
    from sklearn.linear_model import LinearRegression

    skops_io.dump(LinearRegression().fit(ROWS, ROWS[:, 0]), folder / "sound.skops")
    return folder / "sound.skops"


def onnx_model(folder: Path, *, dims: Sequence[int] = (5, 2), columns: int = 5, name: str = "sound") -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = onnx.numpy_helper.from_array(ROWS[:5, :2].astype(np.float32), "w")
    weight.ClearField("dims")
    weight.dims.extend(dims)
    node = onnx.helper.make_node("MatMul", ["input", "w"], ["output"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("input", columns), ("output", dims[-1]))
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("make", [lightgbm_model, xgboost_json, xgboost_ubj, skops_model, onnx_model])
def test_files_that_are_cut_or_changed_take_no_memory_and_raise_nothing_else(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    sound = make(tmp_path)
    whole = sound.read_bytes()
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    hostile: list[Path] = []
    for number in range(16):
        content = bytearray(whole)
        if number % 2:
            del content[rng.randrange(len(whole)) :]
        for _ in range(rng.choice([1, 4, 16]) if content else 0):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = tmp_path / f"hostile{number}{sound.suffix}"
        path.write_bytes(content)
        hostile.append(path)
    for name, outcome in outcomes(sound, hostile).items():
        print(Path(name).name, outcome)
        # A changed digit of a number can be a model, too; digests are there to tell.
        assert outcome.kind in ("ModelError", "UntrustedModel", "loaded", "died")
        assert outcome.growth < MAX_GROWTH


def test_claims_of_lightgbm_files(tmp_path: Path) -> None:
    sound = lightgbm_model(tmp_path)
    text = sound.read_text()
    hostile: dict[Path, str] = {}
    for number, (old, new) in enumerate(
        [
            ("max_feature_idx=4", "max_feature_idx=2000000000"),
            ("num_leaves=", "num_leaves=2000000000"),
            ("num_leaves=", "num_leaves=99999999999999999999999999"),
            ("num_cat=", "num_cat=2000000000"),
            ("num_class=", "num_class=2000000000"),
            ("num_tree_per_iteration=", "num_tree_per_iteration=2000000000"),
            ("tree_sizes=", "tree_sizes=99999999999 "),
        ]
    ):
        assert old in text
        path = tmp_path / f"claim{number}.txt"
        path.write_text(text.replace(old, new))
        hostile[path] = "ModelError"
    check(sound, hostile)


def test_claims_of_xgboost_files(tmp_path: Path) -> None:
    sound = xgboost_json(tmp_path)
    text = sound.read_text()
    hostile: dict[Path, str] = {}
    for number, (old, new) in enumerate(
        [
            ('"num_feature":"5"', '"num_feature":"2000000000"'),
            ('"num_feature":"5"', '"num_feature":"0"'),
            ('"num_trees":"5"', '"num_trees":"2000000000"'),
            ('"num_nodes":"', '"num_nodes":"2000000000'),
        ]
    ):
        assert old in text
        path = tmp_path / f"claim{number}.json"
        path.write_text(text.replace(old, new))
        hostile[path] = "ModelError"
    binary = xgboost_ubj(tmp_path).read_bytes()
    start = binary.index(b"base_weights")
    length = binary.index(b"#L", start) + 2
    path = tmp_path / "claim.ubj"
    path.write_bytes(binary[:length] + struct.pack(">q", 1 << 60) + binary[length + 8 :])
    hostile[path] = "ModelError"
    check(sound, hostile)


def test_claims_of_skops_files(tmp_path: Path) -> None:
    sound = skops_model(tmp_path)
    with zipfile.ZipFile(sound) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    array = next(name for name in members if name.endswith(".npy") and b"(5,)" in members[name])
    hostile: dict[Path, str] = {}
    for shape in (b"(10000000000,)", b"(-5,)", b"(99999999999999999999,)"):
        content = members[array]
        header = content[: content.index(b"\n")].replace(b"(5,)", shape)
        path = tmp_path / f"shape{len(hostile)}.skops"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {
                **members,
                array: header[: content.index(b"\n")] + content[content.index(b"\n") :],
            }.items():
                archive.writestr(name, data)
        hostile[path] = "ModelError"
    path = tmp_path / "bomb.skops"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (200 << 20))
    hostile[path] = "ModelError"
    check(sound, hostile)


def test_claims_of_onnx_files(tmp_path: Path) -> None:
    sound = onnx_model(tmp_path)
    hostile = {
        onnx_model(tmp_path, dims=dims, name=name): "ModelError"
        for name, dims in (("large", (1 << 40, 2)), ("overflow", (1 << 62, 4)), ("negative", (-5, 2)))
    }
    wide = onnx_model(tmp_path, columns=10**9, name="wide")
    hostile[wide] = "ModelError"
    check(sound, hostile)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_runs_code_is_refused_without_trust_and_nothing_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    code = pickle.dumps(Touch(touched))
    hostile: dict[Path, str] = {}
    for name in (
        "model.pkl",
        "model.pickle",
        "model.joblib",
        "model.pt",
        "model.pt2",
        "model.plan",
        "model.engine",
    ):
        (tmp_path / name).write_bytes(code)
        hostile[tmp_path / name] = "UntrustedModel"
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:  # as TorchScript is stored
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3")
    hostile[tmp_path / "archive.pt"] = "UntrustedModel"
    folder = tmp_path / "saved_model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(code)
    hostile[folder] = "UntrustedModel"
    for name in ("../weights", "/etc/passwd"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        hostile[external_data(tmp_path / "sub" / f"onnx{len(hostile)}.onnx", name)] = "UntrustedModel"
    check(skops_model(tmp_path), hostile)
    assert not touched.exists()


def external_data(path: Path, location: str) -> Path:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_model(path.parent))
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "sound"
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    config = BertConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(config).eval().save_pretrained(folder)
    return folder


def changed(encoder: Path, name: str, **changes: Any) -> Path:
    """A copy of the encoder, with changes to its config.json."""
    folder = encoder.parent / name
    shutil.copytree(encoder, folder)
    config = json.loads((encoder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_claims_of_safetensors(encoder: Path) -> None:
    whole = (encoder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + size])
    data = whole[8 + size :]
    first, second = [name for name in header if name != "__metadata__"][:2]

    def with_header(**changes: Any) -> bytes:
        text = json.dumps({**header, **changes}).encode()
        return struct.pack("<Q", len(text)) + text + data

    entry = header[first]
    contents = {
        "empty": b"",
        "bomb": struct.pack("<Q", 2**63) + whole[8:],
        "long": struct.pack("<Q", len(whole)) + whole[8:],
        "cut": whole[:-5],
        "no json": struct.pack("<Q", size) + b"{" * size + data,
        "deep": struct.pack("<Q", 10**6) + b"[" * 10**6,
        "past": with_header(**{first: {**entry, "data_offsets": [0, 2**40]}}),
        "overflow": with_header(**{first: {**entry, "data_offsets": [2**64 - 8, 2**64 - 4]}}),
        "backwards": with_header(**{first: {**entry, "data_offsets": entry["data_offsets"][::-1]}}),
        "overlap": with_header(**{second: {**header[second], "data_offsets": entry["data_offsets"]}}),
        "shape": with_header(**{first: {**entry, "shape": [2**40, 2**40]}}),
        "dtype": with_header(**{first: {**entry, "dtype": "X99"}}),
    }
    hostile: dict[Path, str] = {}
    for name, content in contents.items():
        folder = changed(encoder, name)
        (folder / "model.safetensors").write_bytes(content)
        hostile[folder] = "ModelError"
    check(encoder, hostile, task="embedding")


def test_claims_and_code_of_transformers_folders(encoder: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    hostile = {
        changed(encoder, "wide", hidden_size=2**30): "ModelError",
        changed(encoder, "vocabulary", vocab_size=10**12): "ModelError",
        changed(encoder, "tall", num_hidden_layers=10**8): "ModelError",
        changed(encoder, "positions", max_position_embeddings=2**40): "ModelError",
        changed(encoder, "inner", intermediate_size=2**40): "ModelError",
        changed(encoder, "kind", model_type="nothing"): "ModelError",
    }
    code = changed(encoder, "code", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
    (code / "evil.py").write_text(f"open({str(touched)!r}, 'w')\n")
    tokenizer = changed(encoder, "tokenizer")
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.Evil", None]}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(code / "evil.py", tokenizer)
    pickled = changed(encoder, "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(touched)))
    hostile |= dict.fromkeys((code, tokenizer, pickled), "UntrustedModel")
    check(encoder, hostile, task="embedding")
    assert not touched.exists()
