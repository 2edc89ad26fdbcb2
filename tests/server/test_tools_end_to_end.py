"""A model made to think and to call a function, from its weights to the official client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai

from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.server.app import create_app

PIECES = (
    "<think>",
    "\nI need",
    " the weather.\n",
    "</think>",
    "\n\nOne moment.",
    "\n<tool_call>",
    '\n{"name": "get_wea',
    'ther", "argu',
    'ments": {"city": "Bo',
    'nn }"',
    "}}\n",
    "</tool_call>",
)
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|user|>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{# </think> #}"
)
TOOL = {"type": "function", "function": {"name": "get_weather"}}


def write_chain(folder: Path, pieces: Sequence[str]) -> None:
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
    special = ["<|user|>", "<|assistant|>", "<|end|>"]
    backend.add_special_tokens([AddedToken(text, special=True) for text in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in pieces])
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    size = 320
    end = backend.token_to_id("<|end|>")
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=64,
        max_position_embeddings=1024,
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


async def test_a_model_that_thinks_and_calls(tmp_path: Path) -> None:
    write_chain(tmp_path, PIECES)
    engine = await AsyncEngine.start(EngineConfig(model=str(tmp_path), device="cpu", num_blocks=128))
    try:
        transport = httpx.ASGITransport(create_app(engine))
        async with (
            httpx.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(base_url="http://quire/v1", api_key="none", http_client=http) as client,
        ):
            arguments: Any = {
                "model": str(tmp_path),
                "messages": [{"role": "user", "content": "The weather in Bonn?"}],
                "tools": [TOOL],
                "temperature": 0,
            }
            arguments["model"] = (await client.models.list()).data[0].id
            whole = await client.chat.completions.create(**arguments)
            async with client.chat.completions.stream(
                **arguments, stream_options={"include_usage": True}
            ) as stream:
                streamed = await stream.get_final_completion()
    finally:
        await engine.shutdown()
    for answer in (whole, streamed):
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "One moment."
        assert choice.message.model_extra["reasoning"] == "I need the weather."
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Bonn }"}')
        assert answer.usage.completion_tokens == len(PIECES) + 1
        assert answer.usage.completion_tokens_details.reasoning_tokens == 4
