"""Models for tests of whole servers: one says what it is told to, one is the embedded model with tools."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import quire

EMBEDDED = Path(quire.__file__).parent / "models" / "embedded" / "weights"

PIECES = (
    "<think>",
    "\nI need",
    " the weather.\n",
    "</think>",
    "\n\nOne moment.",
    "\n<tool_call>",
    '\n{"name": "get_wea',
    'ther", "argu',
    'ments": {"city": "',
    "Bo",
    "nn }",
    '"}}\n',
    "</tool_call>",
)
"""Thoughts, words, and a call in Hermes' format."""

HARMONY_PIECES = (
    "<|channel|>analysis<|message|>I need",
    " the weather.",
    "<|end|><|start|>assistant<|channel|>commentary<|message|>One",
    " moment.",
    "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
    '{"city": "',
    "Bo",
    "nn }",
    '"}',
    "<|call|>",
)
"""The same in harmony. Not for grammars: these pieces are not those in which what is forced is split."""

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|user|>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{# </think> #}"
)

EMBEDDED_TEMPLATE = (
    "{{ bos_token }}{% if tools %}<|system|>{% for tool in tools %}{{ tool.function | tojson }}\n{% endfor %}"
    "<|end|>{% endif %}{% for m in messages %}"
    "<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""For the embedded model: it has a place for tools, calls and their results."""


def write_chain(folder: Path, pieces: Sequence[str] = PIECES) -> None:
    """A Llama that says, after `<|assistant|>`, these pieces, each of which is a token.

    Its embedding is a unit vector per token, its layer adds nothing, and its head leads from each
    token to the next one.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|user|>", "<|assistant|>", "<|eos|>"]
    backend.add_special_tokens([AddedToken(text, special=True) for text in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in pieces])
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "eos_token": "<|eos|>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    size = 320
    end = backend.token_to_id("<|eos|>")
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        chain = [backend.token_to_id(text) for text in ("<|assistant|>", *pieces)] + [end]
        for token, following in itertools.pairwise(chain):
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)


def write_embedded(folder: Path, template: str = EMBEDDED_TEMPLATE) -> None:
    """The embedded model with another chat template."""
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
