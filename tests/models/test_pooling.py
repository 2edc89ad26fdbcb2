"""How a folder says that a vector is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.errors import InvalidRequest, ModelError
from quire.models.pooling import PoolingConfig

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.base.modules.anything."


def folder(path: Path, modules: object = None, pooling: dict | None = None, **config: object) -> Path:
    """A model folder with nothing but what is read here."""
    (path / "config.json").write_text(json.dumps({"hidden_size": 64} | config))
    if modules is not None:
        (path / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


def steps(*kinds: str, prefix: str = OLD) -> list[dict]:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    return [{"type": prefix + kind, "path": paths.get(kind, f"9_{kind}")} for kind in kinds]


def test_without_files_the_last_token_counts(tmp_path: Path) -> None:
    assert PoolingConfig.from_folder(folder(tmp_path)) == PoolingConfig(
        mode="last", normalize=True, hidden_size=64, shorter=None
    )


@pytest.mark.parametrize("prefix", [OLD, NEW])
@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_modules(tmp_path: Path, prefix: str, pooling: dict, mode: str, normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    config = PoolingConfig.from_folder(folder(tmp_path, steps(*kinds, prefix=prefix), pooling))
    assert (config.mode, config.normalize) == (mode, normalize)


@pytest.mark.parametrize(
    ("modules", "pooling", "named"),
    [
        ({}, None, "modules.json"),
        ([1], None, "modules.json"),
        ([], None, "Pooling"),
        (steps("Transformer", "Pooling", "Dense"), {"pooling_mode": "mean"}, "Dense"),
        (steps("Transformer", "Pooling"), {"pooling_mode": "cls"}, "cls"),
        (steps("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "max"),
        (
            steps("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
            "mean",
        ),
        (steps("Transformer", "Pooling"), {}, "nothing"),
        (
            steps("Transformer", "Pooling"),
            {"pooling_mode": "mean", "include_prompt": False},
            "include_prompt",
        ),
        (steps("Transformer", "Pooling"), None, "does not exist"),
        ([{"type": "Pooling", "path": "../elsewhere"}], None, "outside"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, modules: object, pooling: dict | None, named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        PoolingConfig.from_folder(folder(tmp_path, modules, pooling))


def test_dimensions(tmp_path: Path) -> None:
    for fields, allowed, refused in (
        ({}, (None, 64), (32, 0, 65)),
        ({"is_matryoshka": True}, (None, 64, 1, 63), (0, -1, 65)),
        ({"matryoshka_dimensions": [16, 32]}, (None, 64, 16, 32), (17, 0)),
    ):
        config = PoolingConfig.from_folder(folder(tmp_path, **fields))
        for dimensions in allowed:
            config.check_dimensions(dimensions)
        for dimensions in refused:
            with pytest.raises(InvalidRequest, match=f"{dimensions}") as caught:
                config.check_dimensions(dimensions)
            assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("architecture", "mode"),
    [("BertModel", "mean"), ("XLMRobertaForMaskedLM", "mean"), ("Qwen2ForCausalLM", "last")],
)
def test_each_kind_has_a_way_of_its_own_without_files(tmp_path: Path, architecture: str, mode: str) -> None:
    config = PoolingConfig.from_folder(folder(tmp_path, architectures=[architecture]))
    assert (config.mode, config.normalize, config.tasks) == (mode, True, ("embed", "score"))
    with pytest.raises(InvalidRequest, match="no head"):
        config.check_task("classify")


@pytest.mark.parametrize(
    ("switch", "mode"),
    [
        ("cls_token", "cls"),
        ("max_tokens", "max"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("weightedmean_tokens", "weightedmean"),
    ],
)
def test_more_modes_for_encoders(tmp_path: Path, switch: str, mode: str) -> None:
    pooling = {f"pooling_mode_{switch}": True}
    path = folder(tmp_path, steps("Transformer", "Pooling"), pooling, architectures=["BertModel"])
    assert PoolingConfig.from_folder(path).mode == mode


@pytest.mark.parametrize(
    ("fields", "mode", "activation", "tasks"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "cls", "softmax", ("classify",)),
        ({"id2label": {"0": "a"}}, "cls", "sigmoid", ("classify", "score")),
        ({"id2label": {"0": "a"}, "problem_type": "regression"}, "cls", "none", ("classify", "score")),
        (
            {"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"},
            "cls",
            "sigmoid",
            ("classify",),
        ),
        (
            {
                "id2label": {"0": "a"},
                "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
            },
            "cls",
            "none",
            ("classify", "score"),
        ),
        ({"classifier_pooling": "mean"}, "mean", "softmax", ("classify",)),
    ],
)
def test_heads(tmp_path: Path, fields: dict, mode: str, activation: str, tasks: tuple) -> None:
    path = folder(tmp_path, architectures=["BertForSequenceClassification"], **fields)
    config = PoolingConfig.from_folder(path)
    assert config.classifier is not None
    assert (config.mode, config.classifier.activation, config.tasks) == (mode, activation, tasks)
    with pytest.raises(InvalidRequest, match="makes no embeddings"):
        config.check_task("embed")


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": {"1": "a"}},
        {"id2label": {}},
        {"id2label": {"0": 1}},
        {"problem_type": "guessing"},
        {"sbert_ce_default_activation_function": "os.system"},
    ],
)
def test_malformed_heads(tmp_path: Path, fields: dict) -> None:
    with pytest.raises(ModelError):
        PoolingConfig.from_folder(folder(tmp_path, architectures=["BertForSequenceClassification"], **fields))


def test_prompts_by_name(tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    config = PoolingConfig.from_folder(folder(tmp_path))
    assert (config.prompt("query"), config.prompt(None)) == ("query: ", "")
    with pytest.raises(InvalidRequest, match="'query'"):
        config.prompt("passage")
