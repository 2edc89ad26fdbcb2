"""Text to token ids and back, as a model folder prescribes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from tokenizers import AddedToken, normalizers, processors
from tokenizers import Tokenizer as Backend

from ..errors import InvalidRequest, ModelError
from .config_reader import Fields, read_json
from .sentencepiece_model import SentencePieceModel
from .token_bytes import TokenBytes
from .token_stream import ByteTokenStream, LibraryTokenStream, TokenStream

BREAK = "\ufdd0"
"""A Unicode noncharacter, which texts never exchange: `encode` drops it, and no token reaches across it."""

Json = TypeVar("Json")


class Tokenizer:
    """A model's tokenizer.

    Args:
        backend: The tokenizers library's object; its post-processor adds BOS and EOS, if any.
        bos_token_id: Token that begins a text, or None.
        eos_token_ids: Tokens that end a text; a model's configuration may name more.

    Attributes:
        bos_token_id: As above.
        eos_token_ids: As above.
        vocab_size: Tokens, added ones included.
        special_token_ids: Tokens that are no text, such as BOS and the marks of chat templates.
    """

    def __init__(self, backend: Backend, bos_token_id: int | None, eos_token_ids: tuple[int, ...]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.vocab_size: int = backend.get_vocab_size()
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token for token, entry in added.items() if entry.special)
        self._spelling = TokenBytes.of(backend)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Loads tokenizer.json, or else a SentencePiece tokenizer.model, and tokenizer_config.json.

        Raises `ModelError` if there is neither, or if a file is malformed.
        """
        folder = Path(path)
        settings = read_tokenizer_config(folder)
        names = special_tokens(settings)
        if (folder / "tokenizer.json").exists():
            backend = _load_json(folder / "tokenizer.json")
        elif (folder / "tokenizer.model").exists():
            model = SentencePieceModel.from_file(folder / "tokenizer.model")
            backend = model.to_tokenizer()
            names = model.special_tokens() | names
        else:
            raise ModelError(f"{folder} holds neither tokenizer.json nor tokenizer.model.")
        # Tokens are marked as special, none are added: the model has no embedding for a new one.
        names = {name: text for name, text in names.items() if backend.token_to_id(text) is not None}
        backend.add_special_tokens([AddedToken(text, special=True) for text in names.values()])
        if backend.post_processor is None:
            # tokenizer.json usually says what to add. A SentencePiece file does not, and Llama,
            # Mistral and Gemma all begin a text with BOS.
            add_bos = settings.boolean("add_bos_token", not (folder / "tokenizer.json").exists())
            add_eos = settings.boolean("add_eos_token")
            _set_post_processor(
                backend,
                bos=names.get("bos_token") if add_bos else None,
                eos=names.get("eos_token") if add_eos else None,
            )
        if _lowers_case(folder):
            kept = [backend.normalizer] if backend.normalizer is not None else []
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *kept])  # pyright: ignore[reportAttributeAccessIssue]
        bos, eos = (backend.token_to_id(names.get(name, "")) for name in ("bos_token", "eos_token"))
        return cls(backend, bos, () if eos is None else (eos,))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Splits a text into tokens; special tokens that are spelled out in it become those tokens.

        Args:
            text: Any text.
            add_special_tokens: Whether to add what the model was trained to see around a text,
                usually BOS.

        Raises:
            InvalidRequest: The text holds a lone surrogate, which is no character.
        """
        return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """`encode` of several texts, in parallel."""
        _check_characters(texts)
        if not any(BREAK in text for text in texts):
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        else:
            pieces = [text.split(BREAK) for text in texts]
            encodings = self._backend.encode_batch_fast(
                pieces, is_pretokenized=True, add_special_tokens=add_special_tokens
            )
        return [encoding.ids for encoding in encodings]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, max_tokens: int | None = None
    ) -> list[tuple[list[int], int | None]]:
        """Pairs of texts as one sequence each, with the special tokens that the model wants around them.

        Args:
            pairs: The texts, such as a question and an answer.
            max_tokens: Cut longer pairs to so many tokens, the longer text first.

        Returns:
            For each pair its tokens, and where those of the second text begin if the model tells them apart
            by a type of their own.

        Raises:
            InvalidRequest: A text holds a lone surrogate, or `max_tokens` leaves no room for a text.
        """
        room = None
        if max_tokens is not None:
            room = max_tokens - self._backend.num_special_tokens_to_add(is_pair=True)
            if room < 1:
                raise InvalidRequest(
                    f"{max_tokens} tokens are too few for a pair of texts", param="truncate_prompt_tokens"
                )
        texts = [text.replace(BREAK, "") for pair in pairs for text in pair]
        _check_characters(texts)
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        found: list[tuple[list[int], int | None]] = []
        for first, second in zip(encodings[::2], encodings[1::2], strict=True):
            if room is not None:
                first_room, second_room = _share_room(len(first), len(second), room)
                first.truncate(first_room)
                second.truncate(second_room)
            both = self._backend.post_process(first, second)
            types: list[int] = both.type_ids
            found.append((both.ids, types.index(1) if 1 in types else None))
        return found

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that `encode` puts before a text and behind it."""
        bare = self.encode("a", add_special_tokens=False)
        whole = self.encode("a")
        for before in range(len(whole) - len(bare) + 1):
            if whole[before : before + len(bare)] == bare:
                return whole[:before], whole[before + len(bare) :]
        return [], []

    def defuse(self, value: Json) -> Json:
        """Makes the special tokens that are spelled out in a conversation mere text.

        Whoever may write `<|im_end|>` into a message could otherwise end its turn and begin one
        of another role. For use on messages before a chat template renders them.

        Args:
            value: A text, or lists and objects with texts in them. Keys are texts, too: those of a
                tool's parameters come from whoever wrote the tool.

        Returns:
            A copy with a `BREAK` behind the first character of each spelling.
        """
        return cast(Json, self._defuse(value))

    def _defuse(self, value: object) -> object:
        if isinstance(value, str):
            return self._spelled_specials.sub(lambda match: match[0] + BREAK, value)
        if isinstance(value, Mapping):
            items = cast("Mapping[str, object]", value).items()
            return {cast(str, self._defuse(key)): self._defuse(item) for key, item in items}
        if isinstance(value, list | tuple):
            return [self._defuse(item) for item in cast("Sequence[object]", value)]
        return value

    @cached_property
    def _spelled_specials(self) -> re.Pattern[str]:
        """Matches the first character of each special token, overlapping ones included."""
        spellings = "|".join(re.escape(name) for name in self.special_tokens if name)
        return re.compile(f"(?=(?:{spellings}))." if spellings else "(?!)", re.DOTALL)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens by their spelling."""
        return {self._backend.id_to_token(token) or "": token for token in sorted(self.special_token_ids)}

    def has_token(self, spelling: str) -> bool:
        """Whether the vocabulary has a token of just this spelling."""
        return self._backend.token_to_id(spelling) is not None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Joins tokens to text; bytes that form no character come out as U+FFFD.

        Ids that are no tokens, such as the padding of a vocabulary, have no text.
        """
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return stream.push(ids) + stream.flush()

    def stream(self, *, skip_special_tokens: bool = True, after: Sequence[int] = ()) -> TokenStream:
        """A stream that decodes one text as its tokens arrive.

        Args:
            skip_special_tokens: Whether special tokens leave no text.
            after: Tokens that stand before the text, a prompt say. A text that begins anew loses
                the space that SentencePiece puts in front of its first word; one that goes on
                after other text keeps it.
        """
        if self._spelling.kind == "other":
            return LibraryTokenStream(self._backend, skip_special_tokens, after)
        skipped = self.special_token_ids if skip_special_tokens else frozenset[int]()
        begins_anew = all(token in self.special_token_ids for token in after)
        return ByteTokenStream(self.token_bytes, skipped, self._spelling.strip_space and begins_anew)

    def token_name(self, token: int) -> str:
        """The vocabulary's own spelling of a token, empty if the id is no token."""
        return self._backend.id_to_token(token) or ""

    def token_text(self, token: int) -> str:
        """A token's own text, with U+FFFD for bytes that are no whole character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """A token's own bytes, exact where the vocabulary is made of bytes; none if the id is no token."""
        found = self._bytes.get(token)
        if found is None:
            name = self._backend.id_to_token(token) if 0 <= token < 1 << 32 else None
            found = self._bytes[token] = b"" if name is None else self._spelling.encode(name)
        return found

    @property
    def has_exact_bytes(self) -> bool:
        """Whether a text is its tokens' bytes one after another, whatever stands beside a token."""
        return self._spelling.kind != "other"

    @cached_property
    def max_token_bytes(self) -> int:
        """The length of the longest token, in bytes.

        A text of n bytes has at least `n / max_token_bytes` tokens, unless the tokenizer's
        normaliser drops characters.
        """
        return max(len(self._spelling.encode(name)) for name in self._backend.get_vocab())


def _check_characters(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the text holds a lone surrogate at character {error.start}") from error


def _share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts fit into `room`: the longer one is cut until both are equally long."""
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= half:
        return room - second, second
    return (half, room - half) if first <= second else (room - half, half)


def read_tokenizer_config(folder: Path) -> Fields:
    """Reads tokenizer_config.json, which may be absent."""
    path = folder / "tokenizer_config.json"
    return Fields(read_json(path) if path.exists() else {}, path.name)


def special_tokens(settings: Fields) -> dict[str, str]:
    """The spellings of `bos_token`, `eos_token` and the like; a spelling may be wrapped in an object."""
    names: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if isinstance(settings.values.get(name), dict):
            wrapped = settings.object(name)
            names[name] = wrapped.string("content") if wrapped else ""
        else:
            names[name] = settings.string(name, "")
    return {name: spelling for name, spelling in names.items() if spelling}


def _lowers_case(folder: Path) -> bool:
    """Whether sentence-transformers' settings ask for texts in lower case, whatever the tokenizer does."""
    path = folder / "sentence_bert_config.json"
    return path.exists() and Fields(read_json(path), path.name).boolean("do_lower_case")


def _load_json(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"{path} is no valid tokenizer: {error}") from error


def _set_post_processor(backend: Backend, *, bos: str | None, eos: str | None) -> None:
    """Makes the tokenizer put BOS before and EOS after each text, where given."""
    around = [name for name in (bos, eos) if name is not None]
    template = " ".join([*([bos] if bos else []), "$A", *([eos] if eos else [])])
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=template, special_tokens=[(name, backend.token_to_id(name)) for name in around]
    )
