"""From tokens to text while they are being generated: no character before it is whole.

Deltas joined are the text of all tokens, wherever the tokens were cut into pushes.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TokenStream(ABC):
    """Takes tokens as they come and gives the text that has become certain."""

    @abstractmethod
    def push(self, ids: Sequence[int]) -> str:
        """Takes the next tokens; returns the characters that they complete, often none."""

    @abstractmethod
    def flush(self) -> str:
        """Ends the stream; bytes that never became a character come out as U+FFFD."""
