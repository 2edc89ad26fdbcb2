"""Prompts with a `suffix`: the model fills in what stands between them."""

from __future__ import annotations

from ...errors import InvalidRequest
from ...models.tokenizer import Tokenizer
from .protocol import CompletionRequest

# The marks before the prompt, before the suffix, and before what is filled in.
_FORMS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)


def add_suffix(
    tokenizer: Tokenizer, body: CompletionRequest, prompts: list[str | list[int]]
) -> list[str | list[int]]:
    """The prompts and the request's suffix, if it has one, in the form that the model was trained on.

    Raises:
        InvalidRequest: If the model's tokenizer has no such marks, or the request asks for what does not go
            with a suffix.
    """
    if not body.suffix:
        return prompts
    for name in ("echo", "truncate_prompt_tokens"):
        if getattr(body, name):
            raise InvalidRequest(f"{name} cannot be combined with suffix", param=name)
    for marks in _FORMS:
        if all(map(tokenizer.has_token, marks)):
            break
    else:
        raise InvalidRequest(
            "suffix: this model's tokenizer has no known tokens for filling in the middle",
            param="suffix",
            code="unsupported_parameter",
        )
    before, between, after = marks
    filled: list[str | list[int]] = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InvalidRequest("suffix needs a prompt of text, not of token ids", param="suffix")
        filled.append(before + prompt + between + body.suffix + after)
    return filled
