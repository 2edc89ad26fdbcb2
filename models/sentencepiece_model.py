"""Reading a SentencePiece `tokenizer.model` into a `tokenizers.Tokenizer`.

The file is a protocol buffer (sentencepiece_model.proto) of which only a dozen fields matter here,
so a small reader of the wire format takes the place of a dependency on protobuf. The tokenizer
then runs in the same library as all others, streaming decoder included.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from ..errors import ModelError
from .token_bytes import SPACE

MAX_FILE_BYTES = 64 << 20
MAX_PIECE_LENGTH = 1024

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

Value = int | bytes
"""A varint, or the bytes of a fixed or length-delimited field."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token: its text, with ▁ for a space, its score and its type."""

    text: str
    score: float
    type: int


@dataclass(slots=True)
class SentencePieceModel:
    """The parts of a ModelProto that decide how text is split; the proto's own defaults.

    Attributes:
        pieces: The vocabulary by token id.
        algorithm: UNIGRAM or BPE.
        unk_id: Token for what no piece covers.
        bos_id: Token that begins a text, -1 for none.
        eos_id: Token that ends a text, -1 for none.
        charsmap: The compiled character normalisation, empty for none.
        add_dummy_prefix: Whether a text is split as if a space stood before it.
        remove_extra_whitespaces: Whether runs of spaces collapse and outer ones go.
    """

    pieces: list[Piece] = field(default_factory=list[Piece])
    algorithm: int = UNIGRAM
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True

    @classmethod
    def from_file(cls, path: Path) -> SentencePieceModel:
        """Parses a file. Raises `ModelError` naming it if it is no SentencePiece model."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ModelError(f"{path} is larger than {MAX_FILE_BYTES} bytes.")
            model = cls._parse(path.read_bytes())
        except (OSError, ValueError, TypeError, struct.error) as error:
            raise ModelError(f"{path} is no SentencePiece model: {error}") from error
        if not model.pieces or not 0 <= model.unk_id < len(model.pieces):
            raise ModelError(f"{path} is no SentencePiece model: it has {len(model.pieces)} pieces.")
        if model.algorithm not in (UNIGRAM, BPE):
            raise ModelError(f"{path}: the algorithm is neither unigram nor BPE.")
        return model

    @classmethod
    def _parse(cls, data: bytes) -> SentencePieceModel:
        model = cls()
        for number, value in _fields(data):
            if number == 1:
                model.pieces.append(_piece(_bytes(value)))
            elif number == 2:
                model._read_trainer(_bytes(value))
            elif number == 3:
                model._read_normalizer(_bytes(value))
        return model

    def to_tokenizer(self) -> Tokenizer:
        """Builds a tokenizer that splits as SentencePiece does, without BOS or EOS.

        Raises `ModelError` if the tokenizers library refuses the vocabulary or the normalisation.
        """
        try:
            return self._build()
        except Exception as error:  # the library raises nothing more specific
            raise ModelError(f"The SentencePiece model is damaged: {error}") from error

    def _build(self) -> Tokenizer:
        byte_fallback = any(piece.type == BYTE for piece in self.pieces)
        if self.algorithm == BPE:
            splitter = _bpe(self, byte_fallback)
        else:
            vocabulary = [(piece.text, piece.score) for piece in self.pieces]
            splitter = models.Unigram(vocabulary, self.unk_id, byte_fallback)
        tokenizer = Tokenizer(splitter)
        tokenizer.normalizer = _normalizer(self)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = _decoder(self, byte_fallback)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.add_tokens(
            [
                AddedToken(piece.text, normalized=False, special=piece.type != USER_DEFINED)
                for piece in self.pieces
                if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
            ]
        )
        return tokenizer

    def special_tokens(self) -> dict[str, str]:
        """The spellings of `bos_token` and `eos_token`, where the model has them."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        return {name: self.pieces[token].text for name, token in ids.items() if 0 <= token < len(self.pieces)}

    def _read_trainer(self, data: bytes) -> None:
        for number, value in _fields(data):
            if number == 3:
                self.algorithm = _int(value)
            elif number == 40:
                self.unk_id = _int(value)
            elif number == 41:
                self.bos_id = _int(value)
            elif number == 42:
                self.eos_id = _int(value)

    def _read_normalizer(self, data: bytes) -> None:
        for number, value in _fields(data):
            if number == 2:
                self.charsmap = _bytes(value)
            elif number == 3:
                self.add_dummy_prefix = bool(_int(value))
            elif number == 4:
                self.remove_extra_whitespaces = bool(_int(value))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yields a message's fields: number, and varint or raw bytes. Raises ValueError if it is cut short."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if position + length > len(data):
            raise ValueError("a field ends past the end of its message")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads base-128 digits, least significant first; returns the value and where it ended."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a number is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number has more than 64 bits")


def _int(value: Value) -> int:
    """A signed integer: protocol buffers store negative ones as 64-bit two's complement."""
    if not isinstance(value, int):
        raise TypeError("a field that should be a number is not")
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a field that should be a string or a message is a number")
    return value


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode("utf-8")
            if len(text) > MAX_PIECE_LENGTH:
                raise ValueError(f"a piece has {len(text)} characters")
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3:
            kind = _int(value)
    return Piece(text, score, kind)


def _bpe(model: SentencePieceModel, byte_fallback: bool) -> models.BPE:
    """SentencePiece merges the pair whose union has the best score; BPE files list merges in that order."""
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece in model.pieces:
        if piece.type not in (NORMAL, USER_DEFINED, UNUSED):
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in ids and right in ids:
                merges.append((-piece.score, ids[left], ids[right], (left, right)))
    merges.sort()
    return models.BPE(
        ids,
        [pair for *_, pair in merges],
        unk_token=model.pieces[model.unk_id].text,
        fuse_unk=True,
        byte_fallback=byte_fallback,
    )


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(model: SentencePieceModel, byte_fallback: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
