"""The log-probabilities of what a response says: those of its messages' tokens, and of no others."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ...engine.outputs import CompletionOutput
from ...models.tokenizer import Tokenizer
from ..openai.logprobs import Spelling
from ..openai.message_protocol import Delta
from ..openai.protocol import TokenLogprob


class MessageLogprobs:
    """Tells the tokens of messages from those of thoughts, calls and marks.

    Deltas lag behind tokens, and leave marks and white space out. So each token waits with its text until
    a delta holds it, and is left out if what follows it comes first.

    Args:
        tokenizer: Decodes and spells the tokens.
        prompt_token_ids: The prompt, which the answer follows.
        num_top: How many of the most likely tokens stand beside each token.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], num_top: int) -> None:
        self._spelling = Spelling(tokenizer, as_ids=False)
        self._num_top = num_top
        self._stream = tokenizer.stream(skip_special_tokens=False, after=prompt_token_ids)
        self._waiting: deque[tuple[str, TokenLogprob | None]] = deque()

    def push(self, part: CompletionOutput) -> None:
        """Takes in the tokens that are new in an answer."""
        content = self._spelling.chat_logprobs(part.token_ids, part.logprobs or [], self._num_top).content
        for token, entry in zip(part.token_ids, content, strict=True):
            self._waiting.append((self._stream.push([token]), entry))

    def take(self, delta: Delta) -> list[TokenLogprob]:
        """The entries of a delta's content."""
        if delta.reasoning:
            self._claim(delta.reasoning)
        for call in delta.tool_calls or ():
            self._claim(call.function.arguments)
        return self._claim(delta.content) if delta.content else []

    def _claim(self, text: str) -> list[TokenLogprob]:
        """The entries of the tokens that make up a text; those before it that do not are dropped."""
        claimed: list[TokenLogprob] = []
        within: list[TokenLogprob] = []  # tokens that end within a character
        while text and self._waiting:
            own, entry = self._waiting.popleft()
            if not own:
                within += [entry] if entry else []
                continue
            # White space at a token's beginning may have been left out.
            places = (place for place in range(len(own)) if _overlap(own[place:], text))
            place = next(places, None)
            if place is not None:
                claimed += [*within, *([entry] if entry else [])]
                shown = own[place:]
                if len(shown) > len(text):
                    self._waiting.appendleft((shown[len(text) :], None))  # its rest is still to come
                text = text[len(shown) :]
            within = []
        return claimed


def _overlap(own: str, text: str) -> bool:
    """Whether one begins with the other."""
    return text.startswith(own) or own.startswith(text)
