"""The JSON parser: as Python's on what both take, and stricter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import InvalidRequest
from quire.server import strict_json
from quire.server.json_body import parse_json
from quire.server.settings import ServerSettings

LIMITS = {"max_depth": 64, "max_values": 1 << 20}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.text('"\\[]{},a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\[]{},ab'), inner),
    max_leaves=30,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values, st.booleans())
def test_agrees_with_the_standard_library(value: object, escape: bool) -> None:
    body = json.dumps(value, ensure_ascii=escape).encode()
    assert strict_json.parse(body) == value


@given(values, st.integers(1, 9))
def test_depth_is_measured_however_the_text_is_cut(value: object, scan_bytes: int) -> None:
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "SCAN_BYTES", scan_bytes)
        strict_json.check_structure(body, max_depth=depth(value), max_values=len(body))
        if depth(value):
            with pytest.raises(InvalidRequest, match="nests deeper"):
                strict_json.check_structure(body, max_depth=depth(value) - 1, max_values=len(body))


@given(st.lists(st.integers() | st.text('",[]\\')))
def test_values_are_counted(items: list) -> None:
    body = json.dumps(items).encode()
    num_values = max(
        2, 1 + len(items)
    )  # the list, and what is in it; an empty one may count as if it held one
    strict_json.check_structure(body, max_depth=1, max_values=num_values)
    if len(items) > 1:
        with pytest.raises(InvalidRequest, match="JSON values"):
            strict_json.check_structure(body, max_depth=1, max_values=num_values - 1)


@given(st.binary())
def test_anything_else_is_an_invalid_request(body: bytes) -> None:
    try:
        expected = json.loads(body.decode())
    except (UnicodeDecodeError, json.JSONDecodeError):
        with pytest.raises(InvalidRequest):
            strict_json.parse(body)
    else:
        assert strict_json.parse(body) == expected or expected != expected


def test_limits_of_depth_and_values() -> None:
    assert strict_json.parse(b"[" * 64 + b"]" * 64, **LIMITS)
    for body, limits in ((b"[" * 65 + b"]" * 65, LIMITS), (b"[1,2,3]", {"max_depth": 1, "max_values": 3})):
        with pytest.raises(InvalidRequest):
            strict_json.parse(body, **limits)


def test_escapes_that_only_look_like_surrogates() -> None:
    assert strict_json.parse(rb'"\\ud800"') == "\\ud800"
    assert strict_json.parse(rb'"\ud83d\ude00"') == "😀"
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        strict_json.parse(rb'{"a": [{"b\udc00": 1}]}')


def test_the_fast_parser_of_plain_texts_finds_what_the_strict_one_finds() -> None:
    seed = 7
    print(f"seed {seed}")
    rng, settings = random.Random(seed), ServerSettings()
    parts = (
        *(b"[", b"]", b"{", b"}", b":", b",", b'"a"', b"\\", b" ", b"\t", b"\x00", b"\xff"),
        *(b"1", b"-", b"0", b".5", b"e9", b"1e999", b"1" * 45, b"NaN", b"Infinity", b"true", b"null"),
    )

    def outcome(parse: Callable[[bytes], object], text: bytes) -> str:
        try:
            return repr(parse(text))
        except InvalidRequest:
            return "refused"

    num_values = 0
    for _ in range(20_000):
        text = b"".join(rng.choices(parts, k=rng.randint(0, 9)))
        found = outcome(lambda text: parse_json(text, settings), text)
        assert found == outcome(strict_json.parse, text), text
        num_values += found != "refused"
    assert num_values > 300
