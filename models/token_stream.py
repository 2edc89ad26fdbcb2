"""From tokens to text while they are being generated, without ever showing half a character.

The deltas of a stream, joined, are `Tokenizer.decode` of all its tokens, however they were cut
into pushes. Where every token stands for fixed bytes (byte-level BPE, SentencePiece with byte
fallback), an incremental UTF-8 decoder does it at constant cost. All other vocabularies go through
the tokenizers library's own `DecodeStream`, which decodes the last few tokens again at each step.
The latter is not used for bytes because it raises when byte tokens that it has already shown as a
character turn out to begin an invalid run, and because it decodes an invalid run from its start at
every token, so that a client who forces one makes each token dearer than the last.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

NEIGHBOURS = 8


class TokenStream(ABC):
    """Takes tokens as they come and gives the text that has become certain."""

    @abstractmethod
    def push(self, ids: Sequence[int]) -> str:
        """Takes the next tokens; returns the characters that they complete, possibly none."""

    @abstractmethod
    def flush(self) -> str:
        """Ends the stream; bytes that never became a character come out as U+FFFD."""


class ByteTokenStream(TokenStream):
    """A stream over a vocabulary of byte strings.

    Args:
        token_bytes: The bytes of a token.
        skipped: Tokens to leave out.
        strip_space: Whether the text loses one leading space, the one SentencePiece puts there.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], skipped: Collection[int], strip_space: bool
    ) -> None:
        self._token_bytes = token_bytes
        self._skipped = skipped
        self._strip_space = strip_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        data = b"".join([self._token_bytes(token) for token in ids if token not in self._skipped])
        return self._without_first_space(self._utf8.decode(data))

    def flush(self) -> str:
        return self._without_first_space(self._utf8.decode(b"", final=True))

    def _without_first_space(self, text: str) -> str:
        if not text or not self._strip_space:
            return text
        self._strip_space = False
        return text.removeprefix(" ")


class LibraryTokenStream(TokenStream):
    """A stream through the library's decoder, for decoders that look at neighbouring tokens.

    Args:
        backend: The tokenizer whose decoder is used.
        skip_special_tokens: Whether to leave special tokens out.
        after: Tokens before the text; the last few of them are all that a decoder looks at.
    """

    def __init__(self, backend: Backend, skip_special_tokens: bool, after: Sequence[int] = ()) -> None:
        self._backend = backend
        self._skip = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._ids: list[int] = []
        self._num_characters = 0
        self.push(after[-NEIGHBOURS:])

    def push(self, ids: Sequence[int]) -> str:
        text = ""
        for token in ids:
            self._ids.append(token)
            text += self._stream.step(self._backend, token) or ""
        self._num_characters += len(text)
        return text

    def flush(self) -> str:
        return self._backend.decode(self._ids, skip_special_tokens=self._skip)[self._num_characters :]
