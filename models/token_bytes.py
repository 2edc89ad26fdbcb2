"""Which bytes a token stands for, read from the description of a tokenizer's decoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from tokenizers import Tokenizer as Backend

SPACE = "▁"
"""SentencePiece's character for a space."""


def _byte_alphabet() -> dict[str, int]:
    """The printable characters that stand for the 256 bytes in byte-level BPE (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_ALPHABET = _byte_alphabet()


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """How names in the vocabulary stand for bytes.

    Attributes:
        kind: "byte_level" (GPT-2, Llama 3, Qwen), "byte_fallback" (SentencePiece in Llama 2,
            Mistral, Gemma), or "other", where a token's text can depend on its neighbours.
        strip_space: Whether decoding drops one space at the beginning of a text.
    """

    kind: Literal["byte_level", "byte_fallback", "other"]
    strip_space: bool = False

    @classmethod
    def of(cls, backend: Backend) -> TokenBytes:
        """Recognises the decoder of a tokenizer."""
        state: dict[str, Any] = json.loads(backend.decoder.__getstate__()) if backend.decoder else {}
        nested = cast("list[dict[str, Any]]", state.get("decoders", [state]))
        if [step.get("type") for step in nested] == ["ByteLevel"]:
            return cls("byte_level")
        replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        fallback = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
        if nested in (fallback, [*fallback, strip]):
            return cls("byte_fallback", strip_space=strip in nested)
        return cls("other")

    def encode(self, name: str) -> bytes:
        """The bytes of a token by its name in the vocabulary."""
        if self.kind == "byte_level":
            # Added tokens are spelled as they are; the decoder tells them by characters outside the alphabet.
            if all(character in _BYTE_ALPHABET for character in name):
                return bytes(_BYTE_ALPHABET[character] for character in name)
            return name.encode()
        if self.kind == "byte_fallback" and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            try:
                return bytes((int(name[3:5], 16),))
            except ValueError:
                return name.encode()
        return name.replace(SPACE, " ").encode()
