"""Stop strings, for every way in which a text can be cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.stop_strings import StopMatcher


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    places = [(text.find(stop), stop) for stop in stops if stop in text]
    if not places:
        return text, None
    place, stop = min(places, key=lambda match: match[0])
    return text[: place + (len(stop) if include else 0)], stop


def run(pieces: list[str], stops: list[str], include: bool) -> tuple[str, str | None]:
    matcher = StopMatcher(stops, include=include)
    out = ""
    for piece in pieces:
        out += matcher.push(piece)
        if matcher.matched is not None:
            return out, matcher.matched
    return out + matcher.flush(), None


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stops", [["aab"], ["b"], ["abaab", "ba"], ["aaa", "aab"], ["c"]])
def test_every_cut_of_every_short_text(stops: list[str], include: bool) -> None:
    for length in range(7):
        for letters in itertools.product("ab", repeat=length):
            text = "".join(letters)
            for cut in range(length + 1):
                pieces = [text[:cut], text[cut:]]
                # A stop that is complete in an earlier piece ends the text there.
                first = expected(pieces[0], stops, include)
                want = first if first[1] else expected(text, stops, include)
                assert run(pieces, stops, include) == want


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_letter_by_letter_nothing_that_stops_gets_through(text: str, stops: list[str]) -> None:
    out, matched = run(list(text), stops, include=False)
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    assert (matched is None) == (not any(stop in text for stop in stops))
    if matched is None:
        assert out == text


def test_unchecked_text_passes_with_what_was_held() -> None:
    matcher = StopMatcher(["stop"])
    assert matcher.push("a st") == "a "
    assert matcher.push("op", check=False) == "stop"
    assert matcher.matched is None
