"""What a checkpoint's config.json says about a model, checked, in quire's own words.

Both spellings are read: the older `rope_scaling`, `rope_theta` and `torch_dtype`, and the
`rope_parameters` and `dtype` of transformers 5. Where a field is absent, the default is the one
that transformers' configuration class of that architecture has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelError, UntrustedModel
from .config_reader import Fields, read_json
from .encoder_config import (
    ClassifierConfig,
    EncoderConfig,
    read_classifier,
    read_encoder,
    read_modernbert,
    read_nomic_bert,
)
from .quant.config import EMBEDDING, SCORE, QuantizationConfig, QuantScheme, read_quantization
from .registry import CLASSIFIES, ENCODERS, is_classifier, known_architectures
from .rope_config import RopeConfig, read_rope

Activation = Literal["silu", "gelu", "gelu_tanh"]

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_DTYPES = ("float32", "float16", "bfloat16")

# What families of encoders call the fields that all have.
ENCODER_NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "dim": "hidden_size",
        "hidden_dim": "intermediate_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "activation": "hidden_act",
    },
    "nomic_bert": {
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "activation_function": "hidden_act",
        "layer_norm_epsilon": "layer_norm_eps",
    },
}

# Defaults of single architectures for fields that their config.json may leave out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"max_position_embeddings": 2048},
    "MistralForCausalLM": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "MixtralForCausalLM": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "Qwen2ForCausalLM": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "Qwen3ForCausalLM": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    "Qwen3MoeForCausalLM": {
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """The sampling parameters that generation_config.json recommends; None where it is silent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a model: of a decoder, or of an encoder, which leaves the fields of decoders as they are.

    Attributes:
        architecture: The name in the registry, e.g. "LlamaForCausalLM".
        vocab_size: Rows of the embedding, which may be more than the tokenizer has tokens.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_size: Channels of a head.
        rms_norm_eps: Epsilon of every RMS norm.
        max_position_embeddings: As in config.json; see `context_length`.
        rope: The position embedding.
        sliding_window: For each layer, how many tokens a query sees, itself included; 0 for all.
        tie_word_embeddings: Whether the output projection is the embedding matrix.
        attention_bias: Whether config.json asks for biases in the attention projections. (Qwen2
            has them on q, k and v without asking.)
        mlp_bias: Whether the MLP's projections have biases.
        hidden_act: Activation of the MLP's gate.
        qk_norm: Whether each head of q and k is normalised (Qwen3).
        num_experts: Experts of a mixture; 0 in dense models.
        num_experts_per_token: How many of them the router chooses.
        moe_intermediate_size: Width of one expert.
        renormalize_experts: Whether the chosen experts' weights are rescaled to sum to one.
        dense_layers: Layers of a mixture that have one MLP of `intermediate_size` instead.
        dtype: The checkpoint's dtype: float32, float16 or bfloat16.
        eos_token_ids: Tokens that end a text, those of generation_config.json first.
        bos_token_id: Token that begins a text, or None.
        generation: Recommended sampling parameters.
        quantization: Which matrices are stored as integers, and how; None if none are.
        encoder: What only encoders have; None for decoders.
        classifier: The head of a sequence classifier, or None.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    sliding_window: tuple[int, ...]
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: Activation = "silu"
    qk_norm: bool = False
    num_experts: int = 0
    num_experts_per_token: int = 0
    moe_intermediate_size: int = 0
    renormalize_experts: bool = True
    dense_layers: frozenset[int] = frozenset()
    dtype: str = "float32"
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    quantization: QuantizationConfig | None = None
    encoder: EncoderConfig | None = None
    classifier: ClassifierConfig | None = None

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelConfig:
        """Reads config.json and, if they are there, generation_config.json and sentence_bert_config.json.

        Raises:
            UntrustedModel: The model would need code from its folder.
            ModelError: A file or a value in it is missing, malformed or not supported.
        """
        folder = Path(path)
        config = Fields(read_json(folder / "config.json"), "config.json")
        generation_path = folder / "generation_config.json"
        generation_values = read_json(generation_path) if generation_path.exists() else {}
        sentence_path = folder / "sentence_bert_config.json"
        sentence_values = read_json(sentence_path) if sentence_path.exists() else {}
        return _parse(
            config,
            Fields(generation_values, "generation_config.json"),
            Fields(sentence_values, sentence_path.name),
        )

    def scheme_of(self, module: str) -> QuantScheme | None:
        """How the checkpoint stores a matrix as integers; None if it is a float matrix, as embeddings are.

        Args:
            module: The matrix' name, without `.weight`.
        """
        if self.quantization is None or module in (EMBEDDING, SCORE):
            return None
        return self.quantization.scheme(module)

    @property
    def generates(self) -> bool:
        """Whether the model generates text: encoders and classifiers do not."""
        return self.encoder is None and self.classifier is None

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for, stretching included: the default length limit.

        Dynamic scaling alone does not count: within the original length it leaves the model as it
        was trained, and only a longer limit that the user asks for changes its frequencies.
        """
        stretched = int(self.rope.original_max_position * self.rope.factor)
        if self.rope.kind == "linear":
            return stretched
        if self.rope.kind == "yarn":
            return max(stretched, self.max_position_embeddings)
        return self.max_position_embeddings


def _parse(config: Fields, generation: Fields, sentences: Fields) -> ModelConfig:
    architecture = _architecture(config)
    if architecture in ENCODERS:
        return _parse_encoder(config, sentences, architecture)
    # A classifier is the language model of its family with another head.
    family = architecture.replace(CLASSIFIES, "ForCausalLM")
    config = Fields(_with_defaults(config.values, _DEFAULTS[family]), config.source)
    num_heads = config.integer("num_attention_heads", high=4096)
    num_kv_heads = config.integer("num_key_value_heads", num_heads, high=4096)
    if num_heads % num_kv_heads:
        raise config.error("num_key_value_heads", f"a divisor of num_attention_heads ({num_heads})")
    vocab_size = config.integer("vocab_size")
    num_layers = config.integer("num_hidden_layers", high=1024)
    max_position = config.integer("max_position_embeddings", high=1 << 31)
    activation = config.string("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise config.error("hidden_act", f"one of {', '.join(_ACTIVATIONS)}")
    bos = config.integers("bos_token_id") or generation.integers("bos_token_id")
    # Some configs name tokens that the vocabulary lacks (-1, say): those can never be sampled.
    eos = [*generation.integers("eos_token_id"), *config.integers("eos_token_id")]
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=_head_size(config, num_heads),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        max_position_embeddings=max_position,
        rope=read_rope(config, max_position),
        sliding_window=_sliding_window(config, family, num_layers),
        tie_word_embeddings=config.boolean("tie_word_embeddings") and not is_classifier(architecture),
        attention_bias=config.boolean("attention_bias"),
        mlp_bias=config.boolean("mlp_bias"),
        hidden_act=_ACTIVATIONS[activation],
        qk_norm=family in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
        **_experts(config, family, num_layers),
        dtype=_dtype(config),
        eos_token_ids=tuple(dict.fromkeys(token for token in eos if 0 <= token < vocab_size)),
        bos_token_id=bos[0] if bos and 0 <= bos[0] < vocab_size else None,
        generation=_generation_defaults(generation),
        quantization=read_quantization(config),
        classifier=read_classifier(config) if is_classifier(architecture) else None,
    )


def _parse_encoder(config: Fields, sentences: Fields, architecture: str) -> ModelConfig:
    if config.has("quantization_config"):
        raise ModelError("config.json: encoders of integers (quantization_config) are not supported.")
    family = ENCODERS[architecture][0]
    names = ENCODER_NAMES.get(family, {})
    config = Fields({names.get(name, name): value for name, value in config.values.items()}, config.source)
    if family == "modernbert":
        encoder = read_modernbert(config, sentences)
    elif family == "nomic_bert":
        encoder = read_nomic_bert(config, sentences)
    else:
        encoder = read_encoder(config, sentences, family)
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads", high=4096)
    if hidden_size % num_heads:
        raise config.error("hidden_size", f"a multiple of num_attention_heads ({num_heads})")
    if encoder.theta and hidden_size // num_heads % 2:
        raise config.error("num_attention_heads", "such that heads have an even size, for rotary positions")
    context = encoder.num_positions - encoder.first_position
    if context < 1:
        raise config.error("max_position_embeddings", f"more than {encoder.first_position}")
    return ModelConfig(
        architecture=architecture,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers", high=1024),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=hidden_size // num_heads,
        rms_norm_eps=0.0,
        max_position_embeddings=context,
        rope=RopeConfig(original_max_position=context),
        sliding_window=(0,) * config.integer("num_hidden_layers", high=1024),
        dtype=_dtype(config),
        encoder=encoder,
        classifier=read_classifier(config) if is_classifier(architecture) else None,
    )


def _with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with defaults for those that are absent or null."""
    absent = {name: value for name, value in defaults.items() if values.get(name) is None}
    return {**values, **absent}


def _architecture(config: Fields) -> str:
    names = config.strings("architectures")
    for name in names:
        if name in known_architectures():
            return name
    known = f"quire runs {', '.join(known_architectures())}"
    if not names:
        raise ModelError(f"config.json names no architecture; {known}.")
    if config.has("auto_map"):
        raise UntrustedModel(
            f"The architecture {names[0]!r} comes as code in the model's folder (auto_map), which quire "
            f"never runs; {known}."
        )
    raise ModelError(f"The architecture {names[0]!r} is not supported; {known}.")


def _head_size(config: Fields, num_heads: int) -> int:
    hidden_size = config.integer("hidden_size")
    if not config.has("head_dim") and hidden_size % num_heads:
        raise config.error("hidden_size", f"a multiple of num_attention_heads ({num_heads})")
    head_size = config.integer("head_dim", hidden_size // num_heads, high=4096)
    if head_size % 2:
        raise ModelError(f"config.json: rotary embeddings need an even head_dim, got {head_size}.")
    return head_size


def _dtype(config: Fields) -> str:
    name = config.string("dtype", config.string("torch_dtype", "float32")).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelError(f"config.json: dtype must be one of {', '.join(_DTYPES)}, got {name!r}.")
    return name


def _sliding_window(config: Fields, architecture: str, num_layers: int) -> tuple[int, ...]:
    """How each family says which layers attend to a window, and how long it is."""
    # Where windows are in use, an absent length means 4096 (Mistral 7B v0.1) and null means no window.
    unset = "sliding_window" in config.values and not config.has("sliding_window")
    window = 0 if unset else config.integer("sliding_window", 4096, high=1 << 31)
    if architecture == "MixtralForCausalLM":
        return (window if config.has("sliding_window") else 0,) * num_layers
    if architecture == "Qwen3MoeForCausalLM":
        return (window if config.boolean("use_sliding_window") else 0,) * num_layers
    if architecture == "MistralForCausalLM":
        return (window,) * num_layers
    if architecture not in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        return (0,) * num_layers
    if not config.boolean("use_sliding_window"):
        window = 0
    kinds = config.strings("layer_types")
    if not kinds:
        first = config.integer("max_window_layers", 28, low=0)
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    if len(kinds) != num_layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise config.error("layer_types", f"{num_layers} times full_attention or sliding_attention")
    if "sliding_attention" in kinds and not window:
        raise config.error("sliding_window", "given, because layer_types asks for sliding_attention")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _experts(config: Fields, architecture: str, num_layers: int) -> dict[str, Any]:
    """The fields of a mixture of experts; none for dense architectures."""
    if architecture not in ("MixtralForCausalLM", "Qwen3MoeForCausalLM"):
        return {}
    is_mixtral = architecture == "MixtralForCausalLM"
    # transformers 5 writes Mixtral's name for both.
    name = "num_local_experts" if config.has("num_local_experts") else "num_experts"
    num_experts = config.integer(name, 128, high=1024)
    top_k = config.integer("num_experts_per_tok", high=1024)
    if top_k > num_experts:
        raise config.error("num_experts_per_tok", f"at most {name} ({num_experts})")
    if read_quantization(config) is not None:
        raise ModelError(f"{config.source}: experts of integers (quantization_config) are not supported.")
    if config.string("hidden_act", "silu") not in ("silu", "swish"):
        raise config.error("hidden_act", "silu, as for every mixture of experts")
    fields: dict[str, Any] = {"num_experts": num_experts, "num_experts_per_token": top_k}
    if is_mixtral:
        return fields | {"moe_intermediate_size": config.integer("intermediate_size")}
    step = config.integer("decoder_sparse_step", 1, high=1 << 31)
    named = {int(layer) for layer in config.integers("mlp_only_layers")}
    return fields | {
        "moe_intermediate_size": config.integer("moe_intermediate_size"),
        "renormalize_experts": config.boolean("norm_topk_prob"),
        "dense_layers": frozenset(i for i in range(num_layers) if i in named or (i + 1) % step),
    }


def _generation_defaults(generation: Fields) -> GenerationDefaults:
    return GenerationDefaults(
        temperature=generation.optional_number("temperature", low=-1e-9),
        top_p=generation.optional_number("top_p"),
        top_k=generation.integer("top_k", low=0) if generation.has("top_k") else None,
        repetition_penalty=generation.optional_number("repetition_penalty"),
    )
