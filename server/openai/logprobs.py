"""Log-probabilities in the two shapes that OpenAI has for them."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.outputs import Logprob, TokenLogprobs
from ...models.token_stream import TokenStream
from ...models.tokenizer import Tokenizer
from .common import LOWEST_LOGPROB
from .protocol import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob


class TextOffsets:
    """Where each token begins in the text of a choice, in characters.

    A token that ends within a character adds nothing; the one that completes it adds the character.

    Args:
        tokenizer: Decodes the tokens.
        prompt_token_ids: The prompt, which the text follows.
        echo: Whether the text includes the prompt.
        skip_special_tokens: Whether special tokens leave no text.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], *, echo: bool, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_token_ids = prompt_token_ids
        self._skip_special_tokens = skip_special_tokens
        self._stream = self._new_stream([] if echo else prompt_token_ids)
        self._position = 0

    def _new_stream(self, after: Sequence[int]) -> TokenStream:
        return self._tokenizer.stream(skip_special_tokens=self._skip_special_tokens, after=after)

    def end_prompt(self) -> None:
        """The next token is the first of the output, which is decoded apart from the prompt."""
        self._position += len(self._stream.flush())
        self._stream = self._new_stream(self._prompt_token_ids)

    def place(self, token: int) -> int:
        """The offset of the next token."""
        offset = self._position
        self._position += len(self._stream.push([token]))
        return offset


class Spelling:
    """Writes log-probabilities.

    Args:
        tokenizer: Spells the tokens.
        as_ids: Whether a token is written as "token_id:7" and not as its text.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def add_logprobs(
        self,
        result: CompletionLogprobs,
        tokens: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        offsets: TextOffsets,
        num_top: int,
    ) -> None:
        """Appends tokens to the parallel lists; one without an entry, the first of a prompt, has nulls."""
        for token, entry in zip(tokens, entries, strict=True):
            result.tokens.append(self._spell(token))
            result.text_offset.append(offsets.place(token))
            if entry is None:
                result.token_logprobs.append(None)
                result.top_logprobs.append(None)
                continue
            result.token_logprobs.append(_finite(entry[token]))
            top: dict[str, float] = {}
            for other, item in entry.items():
                if other == token or item.rank <= num_top:
                    top.setdefault(self._spell(other), _finite(item))
            result.top_logprobs.append(top)

    def chat_logprobs(
        self, tokens: Sequence[int], entries: Sequence[TokenLogprobs], num_top: int
    ) -> ChatLogprobs:
        """One object per token, with the `num_top` most likely tokens in its place, best first."""
        content: list[TokenLogprob] = []
        for token, entry in zip(tokens, entries, strict=True):
            best = sorted(entry.items(), key=lambda item: item[1].rank)[:num_top]
            content.append(
                TokenLogprob(
                    self._name(token, entry[token]),
                    _finite(entry[token]),
                    self._bytes(token),
                    [
                        TopLogprob(self._name(other, item), _finite(item), self._bytes(other))
                        for other, item in best
                    ],
                )
            )
        return ChatLogprobs(content)

    def _bytes(self, token: int) -> list[int]:
        return list(self._tokenizer.token_bytes(token))

    def _name(self, token: int, item: Logprob) -> str:
        return f"token_id:{token}" if self._as_ids else item.decoded_token

    def _spell(self, token: int) -> str:
        """The token's text or, where it is no whole characters, its bytes as OpenAI writes them."""
        if self._as_ids:
            return f"token_id:{token}"
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode("utf-8") or self._tokenizer.token_text(token)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(item: Logprob) -> float:
    return max(item.logprob, LOWEST_LOGPROB)
