"""What config.json says about an encoder, and about the head of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ModelError
from .config_reader import Fields

EncoderActivation = Literal["gelu", "gelu_tanh", "relu", "silu"]
ClassifierActivation = Literal["softmax", "sigmoid", "none"]

MAX_LABELS = 1 << 16
GLOBAL, LOCAL = "full_attention", "sliding_attention"

_ACTIVATIONS: dict[str, EncoderActivation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# What NomicBert's own code can do, and quire cannot.
_NOMIC_SWITCHES = (
    "causal",
    "mlp_fc1_bias",
    "mlp_fc2_bias",
    "parallel_block",
    "prenorm",
    "qkv_proj_bias",
    "rotary_emb_interleaved",
    "use_rms_norm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """The head that gives a text a number for each label.

    Attributes:
        labels: Their names, in the order of the numbers.
        activation: What makes probabilities, or scores, of the numbers: "none" leaves them as they are.
    """

    labels: tuple[str, ...]
    activation: ClassifierActivation

    @property
    def num_labels(self) -> int:
        """How many numbers a text gets."""
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """What only encoders have.

    Attributes:
        layer_norm_eps: Epsilon of every layer norm.
        hidden_act: Activation of the MLP.
        num_positions: Rows of the table of position embeddings.
        num_token_types: Rows of the table of token types; 0 if there is none.
        padding_id: For models whose positions are counted as RoBERTa's are, from `padding_id + 1` on and past
            padding tokens; None where they count from 0.
        norm_bias, attention_bias, mlp_bias, head_bias: Whether norms, projections, MLPs and the head's first
            layer have biases.
        windows: For each layer, how far a token sees to each side, 0 for the whole text; ModernBERT only.
        theta, local_theta: Bases of the rotary frequencies in layers that see the whole text, and in others;
            0 where positions have embeddings.
        usual_length: The tokens to which sentence-transformers cuts a text; None if it does not.
    """

    layer_norm_eps: float
    hidden_act: EncoderActivation
    num_positions: int
    num_token_types: int = 0
    padding_id: int | None = None
    usual_length: int | None = None
    norm_bias: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = True
    windows: tuple[int, ...] = ()
    theta: float = 0.0
    local_theta: float = 0.0

    @property
    def first_position(self) -> int:
        """The row of the position table that a text's first token has."""
        return 0 if self.padding_id is None else self.padding_id + 1


def read_encoder(config: Fields, sentences: Fields, family: str) -> EncoderConfig:
    """What config.json says about an encoder.

    Args:
        config: config.json.
        sentences: sentence_bert_config.json, or nothing.
        family: "bert", "roberta" or "distilbert".

    Raises:
        ModelError: A value is missing, malformed or not supported.
    """
    kind = config.string("position_embedding_type", "absolute")
    if kind != "absolute":
        raise config.error("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        if config.boolean(name):
            raise config.error(name, "false")
    activation = config.string("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise config.error("hidden_act", f"one of {', '.join(_ACTIVATIONS)}")
    return EncoderConfig(
        layer_norm_eps=config.number("layer_norm_eps", 1e-12),
        hidden_act=_ACTIVATIONS[activation],
        num_positions=config.integer("max_position_embeddings", 512, high=1 << 31),
        num_token_types=0 if family == "distilbert" else config.integer("type_vocab_size", 2),
        padding_id=config.integer("pad_token_id", 1, low=0) if family == "roberta" else None,
        usual_length=sentences.integer("max_seq_length") if sentences.has("max_seq_length") else None,
    )


def read_modernbert(config: Fields, sentences: Fields) -> EncoderConfig:
    """What config.json says about a ModernBERT; arguments and errors as of `read_encoder`."""
    for name in ("hidden_activation", "classifier_activation"):
        if config.string(name, "gelu") != "gelu":
            raise config.error(name, "gelu")
    if config.string("classifier_pooling", "cls") not in ("cls", "mean"):
        raise config.error("classifier_pooling", "cls or mean")
    num_layers = config.integer("num_hidden_layers", high=1024)
    every = config.integer("global_attn_every_n_layers", 3, high=1024)
    kinds = config.strings("layer_types") or [
        LOCAL if layer % every else GLOBAL for layer in range(num_layers)
    ]
    if len(kinds) != num_layers or not set(kinds) <= {GLOBAL, LOCAL}:
        raise config.error("layer_types", f"{num_layers} times {GLOBAL} or {LOCAL}")
    window = config.integer("local_attention", 128, low=2, high=1 << 31) // 2
    return EncoderConfig(
        layer_norm_eps=config.number("norm_eps", 1e-5),
        hidden_act="gelu",
        num_positions=config.integer("max_position_embeddings", 8192, high=1 << 31),
        usual_length=sentences.integer("max_seq_length") if sentences.has("max_seq_length") else None,
        norm_bias=config.boolean("norm_bias"),
        attention_bias=config.boolean("attention_bias"),
        mlp_bias=config.boolean("mlp_bias"),
        head_bias=config.boolean("classifier_bias"),
        windows=tuple(window if kind == LOCAL else 0 for kind in kinds),
        theta=_theta(config, GLOBAL, config.number("global_rope_theta", 160000.0)),
        local_theta=_theta(config, LOCAL, config.number("local_rope_theta", 10000.0)),
    )


def read_nomic_bert(config: Fields, sentences: Fields) -> EncoderConfig:
    """What config.json says about a NomicBert; arguments and errors as of `read_encoder`.

    Both forms are read: the model's own, and that of transformers 5.
    """
    for name in _NOMIC_SWITCHES:
        if config.boolean(name):
            raise config.error(name, "false")
    if config.string("hidden_act", "swiglu") not in ("swiglu", "silu"):
        raise config.error("hidden_act", "swiglu or silu")
    if config.number("rotary_emb_fraction", 1.0) != 1.0:
        raise config.error("rotary_emb_fraction", "1")
    positions = config.integer("max_position_embeddings", 2048, high=1 << 31)
    # Its own form names positions that only stretched frequencies reach.
    positions = min(positions, config.integer("max_trained_positions", positions, high=1 << 31))
    rope = config.object("rope_parameters") or Fields({}, config.source)
    if rope.string("rope_type", "default") != "default":
        raise rope.error("rope_type", "default")
    return EncoderConfig(
        layer_norm_eps=config.number("layer_norm_eps", 1e-12),
        hidden_act="silu",
        num_positions=positions,
        num_token_types=config.integer("type_vocab_size", 2, low=0),
        usual_length=sentences.integer("max_seq_length") if sentences.has("max_seq_length") else None,
        theta=rope.number("rope_theta", config.number("rotary_emb_base", 1000.0)),
    )


def _theta(config: Fields, kind: str, default: float) -> float:
    """The base of the frequencies of one kind of layers, as transformers 5 writes it, or as before."""
    if config.has("rope_scaling"):
        raise config.error("rope_scaling", "absent: an encoder's positions are not stretched")
    rope = config.object("rope_parameters")
    parameters = None if rope is None else rope.object(kind)
    if parameters is None:
        return default
    if parameters.string("rope_type", "default") != "default":
        raise parameters.error("rope_type", "default")
    return parameters.number("rope_theta", default)


def read_classifier(config: Fields) -> ClassifierConfig:
    """The head of a sequence classifier: its labels, and what is made of its numbers.

    The activation is that of sentence-transformers' cross-encoders if config.json names one; else that of
    `problem_type`; else a sigmoid for one label and a softmax for several.
    """
    names = config.object("id2label")
    if names is None:
        count = config.integer("num_labels", 2, high=MAX_LABELS)
        labels = tuple(f"LABEL_{index}" for index in range(count))
    else:
        count = len(names.values)
        if not 1 <= count <= MAX_LABELS or set(names.values) != {str(index) for index in range(count)}:
            raise config.error("id2label", "an object whose keys are 0, 1, 2, ...")
        labels = tuple(names.string(str(index)) for index in range(count))
    return ClassifierConfig(labels=labels, activation=_classifier_activation(config, len(labels)))


def _classifier_activation(config: Fields, num_labels: int) -> ClassifierActivation:
    nested = config.object("sentence_transformers")
    name = "" if nested is None else nested.string("activation_fn", "")
    name = name or config.string("sbert_ce_default_activation_function", "")
    if name:
        kinds: dict[str, ClassifierActivation] = {
            "sigmoid": "sigmoid",
            "identity": "none",
            "softmax": "softmax",
        }
        kind = kinds.get(name.rpartition(".")[2].lower())
        if kind is None:
            raise ModelError(
                "config.json: a classifier's activation must be Sigmoid, Softmax or Identity, "
                f"got {name[:80]!r}."
            )
        return kind
    problem = config.string("problem_type", "")
    by_problem: dict[str, ClassifierActivation] = {
        "regression": "none",
        "single_label_classification": "softmax",
        "multi_label_classification": "sigmoid",
    }
    if problem:
        if problem not in by_problem:
            raise config.error("problem_type", f"one of {', '.join(by_problem)}")
        return by_problem[problem]
    return "sigmoid" if num_labels == 1 else "softmax"
