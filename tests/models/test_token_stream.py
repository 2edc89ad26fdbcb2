"""Streams: joined deltas are the decoded text, characters come whole, and whole ones are not held back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from quire.models.token_stream import LibraryTokenStream
from quire.models.tokenizer import Tokenizer

LLAMA2_BYTES = 3


@pytest.fixture(scope="module")
def byte_level(tiny_model: Callable[..., Path]) -> Tokenizer:
    return Tokenizer.from_folder(tiny_model())


@pytest.fixture(scope="module")
def llama2(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared_data / "tokenizers" / "llama2")


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared_data / "tokenizers" / "gpt2")


def joined(tokenizer: Tokenizer, pieces: list[list[int]], skip: bool = True) -> str:
    stream = tokenizer.stream(skip_special_tokens=skip)
    return "".join([*(stream.push(piece) for piece in pieces), stream.flush()])


def pieces_of(vocab_size: int, common: range) -> st.SearchStrategy[list[list[int]]]:
    """Random ids, half of them from `common` (the bytes), cut into random pushes."""
    token = st.sampled_from(common) | st.integers(0, vocab_size - 1)
    return st.lists(st.lists(token, max_size=5), max_size=8)


def check(tokenizer: Tokenizer, pieces: list[list[int]], skip: bool) -> str:
    ids = [token for piece in pieces for token in piece]
    text = joined(tokenizer, pieces, skip)
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)
    assert text == joined(tokenizer, [[token] for token in ids], skip)
    return text


@settings(deadline=None)
@given(pieces=pieces_of(269, range(256)), skip=st.booleans())
def test_byte_level(byte_level: Tokenizer, pieces: list[list[int]], skip: bool) -> None:
    ids = [token for piece in pieces for token in piece]
    library = byte_level._backend.decode(ids, skip_special_tokens=skip)
    assert check(byte_level, pieces, skip) == library


@settings(deadline=None)
@given(pieces=pieces_of(50257, range(256)), skip=st.booleans())
def test_gpt2(gpt2: Tokenizer, pieces: list[list[int]], skip: bool) -> None:
    ids = [token for piece in pieces for token in piece]
    library = gpt2._backend.decode(ids, skip_special_tokens=skip)
    assert check(gpt2, pieces, skip) == library


@settings(deadline=None)
@given(pieces=pieces_of(32000, range(3, 259)), skip=st.booleans())
def test_llama2(llama2: Tokenizer, pieces: list[list[int]], skip: bool) -> None:
    text = check(llama2, pieces, skip)
    ids = [token for piece in pieces for token in piece]
    library = llama2._backend.decode(ids, skip_special_tokens=skip)
    # The library gives up a whole run of bytes for one that is invalid; a stream cannot take text back.
    assert text == library or "\ufffd" in library


@given(text=st.text())
def test_any_text_survives(byte_level: Tokenizer, llama2: Tokenizer, text: str) -> None:
    for tokenizer in (byte_level, llama2):
        ids = tokenizer.encode(text)
        if not tokenizer.special_token_ids.intersection(ids[1:]):
            assert joined(tokenizer, [[token] for token in ids]) == text


def llama2_bytes(data: bytes) -> list[int]:
    return [LLAMA2_BYTES + byte for byte in data]


def test_characters_come_whole_and_at_once(llama2: Tokenizer) -> None:
    stream = llama2.stream()
    assert [stream.push([token]) for token in llama2_bytes("a🦙\n".encode())] == ["a", "", "", "", "🦙", "\n"]
    assert stream.flush() == ""


def test_invalid_bytes_become_replacements(llama2: Tokenizer) -> None:
    shown = "你".encode()
    stream = llama2.stream()
    assert stream.push(llama2_bytes(shown + b"\xff")) == "你\ufffd"
    assert stream.push(llama2_bytes(b"\xf0\x9f")) == ""
    assert stream.push([15043]) == "\ufffd Hello"
    assert stream.push(llama2_bytes(b"\xf0\x9f")) == ""
    assert stream.flush() == "\ufffd"


def test_only_the_first_space_of_a_text_is_dropped(llama2: Tokenizer) -> None:
    hello = 15043
    assert llama2.token_bytes(hello) == b" Hello"
    stream = llama2.stream()
    assert [stream.push([token]) for token in (1, hello, hello, 29871, hello)] == [
        "",
        "Hello",
        " Hello",
        " ",
        " Hello",
    ]


def test_a_long_invalid_run_costs_no_more_per_token(llama2: Tokenizer) -> None:
    stream = llama2.stream()
    assert stream.push(llama2_bytes(b"\xff" * 100_000)) == "\ufffd" * 100_000


def wordpiece() -> Backend:
    vocabulary = {"[UNK]": 0, "play": 1, "##ing": 2, "is": 3, "fun": 4, "!": 5, "##s": 6}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return backend


def metaspace() -> Backend:
    vocabulary = [("<unk>", 0.0), ("▁play", -1.0), ("ing", -1.0), ("▁is", -1.0), ("▁", -2.0), ("fun", -1.0)]
    backend = Backend(models.Unigram(vocabulary, 0, False))
    backend.decoder = decoders.Metaspace()
    return backend


@pytest.mark.parametrize("make", [wordpiece, metaspace])
@settings(deadline=None)
@given(ids=st.lists(st.integers(1, 5), max_size=12))
def test_other_decoders_go_through_the_library(make: Callable[[], Backend], ids: list[int]) -> None:
    tokenizer = Tokenizer(make(), None, ())
    assert isinstance(tokenizer.stream(), LibraryTokenStream)
    assert joined(tokenizer, [[token] for token in ids]) == tokenizer._backend.decode(ids)
    assert tokenizer.decode(ids) == tokenizer._backend.decode(ids)


def test_text_after_other_text_keeps_its_leading_space(shared_data: Path) -> None:
    for name in ("models/stories260K", "tokenizers/llama2", "tokenizers/gpt2"):
        tokenizer = Tokenizer.from_folder(shared_data / name)
        ids = tokenizer.encode("Once upon a time there was a cat")
        for cut in range(len(ids) + 1):
            stream = tokenizer.stream(after=ids[:cut])
            text = stream.push(ids[cut:]) + stream.flush()
            assert tokenizer.decode(ids[:cut]) + text == tokenizer.decode(ids), (name, cut)
