"""Prompts of a given length: token ids, or texts of short words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...errors import InvalidRequest
from .sample import BenchRequest

# Most vocabularies have a token for each of these, with the space before it.
_WORDS = """
about above after again air all along also always and animal answer any around ask back ball bank bear bed
before begin best better bird black blue boat body book both box boy bread bring brother build but buy call
came can car carry cat change child city close cold color come could country cut dark day deep did dog done
door down draw dream drink drive dry each early earth east easy eat end enough even ever every eye face fact
fall family far farm fast father few field fill find fire first fish five floor flower fly follow food foot
for form found four free friend from full game gave get girl give glass gold good great green ground group
grow half hand happy hard has head hear heart heat help her here high him his hold home horse hot hour house
how hundred ice idea into island keep kind king know lake land large last late laugh lead learn leave left
letter life light like line list listen little live long look lot love low made make man many map mark may
mean men might mile milk mind minute money month moon more morning most mother mountain move much music must
name near need never new next night north nose note now number ocean off often old once one only open order
other our out over own page paper part pass pay people pick picture piece place plan plant play point poor
put question quick rain ran reach read ready real red rest rich ride right river road rock room round rule
run said same sand saw say school sea second see seed seem send set seven shape she ship shop short should
show side sing sister sit six sky sleep slow small snow some song soon sound south stand star start stay step
still stone stop story street strong such summer sun sure table take talk tall teach tell ten than that their
them then there these thing think this those three through time together told took top town tree true try
turn two under until use very voice wait walk wall want warm was watch water way well went were west what
wheel when where which while white who why wide wild will wind window winter wish with woman wood word work
world would write year yellow yes yet you young your
"""
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True)
class LengthRange:
    """A number of tokens, drawn evenly from `low` to `high`, both included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, name: str) -> LengthRange:
        """Reads "128", or "64:256". Raises ValueError naming the setting."""
        match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text)
        if match is None:
            raise ValueError(f"{name} must be a number of tokens, or a range such as 64:256, got {text!r}")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high:
            raise ValueError(f"{name} must be positive, its lower end first, got {text!r}")
        return cls(low, high)

    def draw(self, rng: random.Random) -> int:
        """A length."""
        return rng.randint(self.low, self.high)


class PromptMaker(Protocol):
    """Makes prompts for a tokenizer that it knows, or knows about."""

    def make(self, num_tokens: int, rng: random.Random) -> str | list[int]:
        """A random prompt of this length, special tokens that are added to it not counted."""
        ...

    def join(self, first: str | list[int], second: str | list[int]) -> str | list[int]:
        """One prompt out of two."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...


class TokenIdMaker:
    """Prompts of token ids: of exactly the length that is asked for.

    Args:
        token_ids: The ids to draw from.
        encode: The tokenizer, to count with.
    """

    def __init__(self, token_ids: Sequence[int], encode: Callable[[str], list[int]]) -> None:
        self._token_ids = token_ids
        self._encode = encode

    def make(self, num_tokens: int, rng: random.Random) -> list[int]:
        """Random tokens."""
        return rng.choices(self._token_ids, k=num_tokens)

    def join(self, first: str | list[int], second: str | list[int]) -> str | list[int]:
        """The one behind the other."""
        assert isinstance(first, list)
        assert isinstance(second, list)
        return first + second

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._encode(text))


class WordMaker:
    """Texts of words, whose tokens were counted once: right on average.

    Args:
        tokens_per_word: Of a text of `WORDS`, as the server or its tokenizer counts.
    """

    def __init__(self, tokens_per_word: float) -> None:
        self.tokens_per_word = tokens_per_word

    def make(self, num_tokens: int, rng: random.Random) -> str:
        """Random words."""
        return words(max(1, round(num_tokens / self.tokens_per_word)), rng)

    def join(self, first: str | list[int], second: str | list[int]) -> str:
        """The one behind the other."""
        return f"{first} {second}"

    def count(self, text: str) -> int:
        """An estimate: any text is taken to have as many tokens per word as the known words have."""
        return max(1, round(len(text.split()) * self.tokens_per_word))


class CountedWordMaker(WordMaker):
    """Texts of words, lengthened or shortened until the tokenizer counts what is asked for.

    A text misses its length by a token or two where no word has one token.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        super().__init__(len(encode(" ".join(WORDS))) / len(WORDS))
        self._shortest = min(WORDS, key=lambda word: len(encode(f"a {word}")))

    def make(self, num_tokens: int, rng: random.Random) -> str:
        """Random words."""
        chosen = super().make(num_tokens, rng).split()
        while chosen and self.count(" ".join(chosen)) > num_tokens:
            chosen.pop()
        while self.count(" ".join([*chosen, self._shortest])) <= num_tokens:
            chosen.append(self._shortest)
        return " ".join(chosen or [self._shortest])

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._encode(text))


def words(num: int, rng: random.Random) -> str:
    """A text of random words."""
    return " ".join(rng.choices(WORDS, k=num))


def random_requests(
    maker: PromptMaker,
    lengths: Iterator[tuple[int, int]],
    rng: random.Random,
    *,
    prefix_len: int = 0,
    num_prefixes: int = 1,
) -> Iterator[BenchRequest]:
    """Requests with random prompts, for each pair of input and output tokens.

    Args:
        prefix_len: Tokens at the beginning of every prompt that it shares with others; besides the input
            tokens.
        num_prefixes: Different such beginnings; each request draws one.
    """
    prefixes = [maker.make(prefix_len, rng) for _ in range(num_prefixes)] if prefix_len else []
    for num_input, num_output in lengths:
        prompt = maker.make(num_input, rng)
        yield BenchRequest(maker.join(rng.choice(prefixes), prompt) if prefixes else prompt, num_output)


def random_lengths(
    inputs: LengthRange, outputs: LengthRange, rng: random.Random
) -> Iterator[tuple[int, int]]:
    """Pairs of input and output tokens, without end."""
    while True:
        yield inputs.draw(rng), outputs.draw(rng)


def text_requests(
    texts: Sequence[tuple[str, str | None]],
    maker: PromptMaker,
    outputs: LengthRange | None,
    rng: random.Random,
    *,
    default_output: int,
) -> Iterator[BenchRequest]:
    """Requests with given prompts, from the first again after the last.

    Args:
        texts: Each prompt, and the answer that it once got, or None.
        outputs: Tokens to generate. By default as many as that answer has.
        default_output: Where there is neither.
    """
    if not texts:
        raise InvalidRequest("there are no prompts")
    while True:
        for prompt, answer in texts:
            if outputs is not None:
                num_output = outputs.draw(rng)
            else:
                num_output = default_output if answer is None else max(1, maker.count(answer))
            yield BenchRequest(prompt, num_output)
