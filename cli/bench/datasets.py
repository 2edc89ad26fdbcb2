"""Where a load's prompts come from: drawn at random, a file of texts or conversations, or a trace."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ...errors import InvalidRequest
from ..options import Group
from .prompts import LengthRange, PromptMaker, random_lengths, random_requests, text_requests
from .sample import BenchRequest
from .traces import Trace

DEFAULT_LENGTH = "128"
PROMPT_KEYS = ("prompt", "text", "question", "instruction")
ANSWER_KEYS = ("completion", "answer", "response", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings:
    """What the prompts are.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        dataset_name: "text" is a file with a prompt per line. "sharegpt" is JSON or JSON lines: objects with
            `conversations`, `messages`, `turns` or a prompt.
        dataset_path: The file.
        input_len: Tokens of a random prompt: "128", or evenly "64:256".
        output_len: Tokens to generate. By default 128, or what the file says.
        prefix_len: Tokens at the beginning of every random prompt that it shares with others.
        num_prefixes: Different such beginnings.
    """

    dataset_name: Literal["random", "text", "sharegpt"] | None = None
    dataset_path: Path | None = None
    input_len: str | None = None
    output_len: str | None = None
    prefix_len: int = 0
    num_prefixes: int = 1

    def __post_init__(self) -> None:
        for name in ("input_len", "output_len"):
            if (text := getattr(self, name)) is not None:
                LengthRange.parse(text, name)
        if self.prefix_len < 0:
            raise ValueError(f"prefix_len must not be negative, got {self.prefix_len}")
        if self.num_prefixes < 1:
            raise ValueError(f"num_prefixes must be positive, got {self.num_prefixes}")
        if self.num_prefixes > 1 and not self.prefix_len:
            raise ValueError(f"num_prefixes is {self.num_prefixes}, and prefix_len is 0")
        if (self.dataset_path is None) != (self.kind == "random"):
            raise ValueError(f"dataset_name is {self.kind}, and dataset_path is {self.dataset_path}")
        if self.kind != "random" and self.input_len is not None:
            raise ValueError(f"input_len is {self.input_len}, and the prompts are those of the file")
        if self.kind != "random" and self.prefix_len:
            raise ValueError(f"prefix_len is {self.prefix_len}, and the prompts are those of the file")

    @property
    def kind(self) -> Literal["random", "text", "sharegpt"]:
        """The dataset's name; by default as the file's ending says."""
        if self.dataset_name is not None:
            return self.dataset_name
        if self.dataset_path is None:
            return "random"
        return "sharegpt" if self.dataset_path.suffix in (".json", ".jsonl") else "text"

    @property
    def inputs(self) -> LengthRange:
        """Tokens of a random prompt."""
        return LengthRange.parse(self.input_len or DEFAULT_LENGTH, "input_len")

    @property
    def outputs(self) -> LengthRange | None:
        """Tokens to generate, if they are given."""
        return None if self.output_len is None else LengthRange.parse(self.output_len, "output_len")


DATASET = Group(
    DatasetSettings,
    "Prompts",
    help={
        "dataset_name": "By default as the file's ending says, and random without a file.",
        "dataset_path": "A prompt per line, or JSON as ShareGPT has it.",
        "input_len": "Tokens of a random prompt, or a range such as 64:256; by default 128.",
        "output_len": "Tokens to generate, or a range; by default 128, or as the file's answers have.",
        "prefix_len": "Tokens that prompts begin with and share, besides the input.",
        "num_prefixes": "Different such beginnings.",
    },
)


def dataset_requests(
    settings: DatasetSettings, maker: PromptMaker, rng: random.Random, trace: Trace | None = None
) -> Iterator[BenchRequest]:
    """The requests of a load: as many as the trace has, and without end where there is none.

    Raises:
        InvalidRequest: The file cannot be used.
    """
    path = settings.dataset_path
    default = LengthRange.parse(DEFAULT_LENGTH, "output_len")
    if path is None:
        if trace is None:
            lengths = random_lengths(settings.inputs, settings.outputs or default, rng)
        else:
            lengths = iter([(arrival.num_input, arrival.num_output) for arrival in trace.arrivals])
        return random_requests(
            maker, lengths, rng, prefix_len=settings.prefix_len, num_prefixes=settings.num_prefixes
        )
    texts = read_lines(path) if settings.kind == "text" else read_conversations(path)
    return text_requests(texts, maker, settings.outputs, rng, default_output=default.low)


def read_lines(path: Path) -> list[tuple[str, str | None]]:
    """A prompt per line; empty lines are left out."""
    lines = [(line.strip(), None) for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise InvalidRequest(f"{path} has no prompts")
    return list(lines)


def read_conversations(path: Path) -> list[tuple[str, str | None]]:
    """The first turn of each conversation, and the answer to it, where there is one.

    Raises:
        InvalidRequest: The file is no JSON, or an entry has no prompt; names the entry.
    """
    text = _read(path)
    try:
        if path.suffix == ".jsonl":
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            entries = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{path} is no JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InvalidRequest(f"{path} is no list of conversations")
    found = [_first_turn(f"{path}, entry {number}", entry) for number, entry in enumerate(entries, 1)]
    kept = [turn for turn in found if turn is not None]
    if not kept:
        raise InvalidRequest(f"{path} has no prompts")
    return kept


def _first_turn(where: str, entry: object) -> tuple[str, str | None] | None:
    """None for a conversation that the user does not begin, as ShareGPT has some."""
    if isinstance(entry, str) and entry.strip():
        return entry, None
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{where} is neither a text nor an object")
    fields = cast("dict[str, Any]", entry)
    for name in ("conversations", "messages", "turns"):
        turns = fields.get(name)
        if isinstance(turns, list):
            return _opening([_spoken(where, turn) for turn in cast("list[object]", turns)])
    prompt = next((fields[key] for key in PROMPT_KEYS if isinstance(fields.get(key), str)), "")
    if isinstance(fields.get("input"), str) and fields["input"]:
        prompt = f"{prompt}\n{fields['input']}" if prompt else fields["input"]
    if not prompt.strip():
        raise InvalidRequest(f"{where} has no prompt: its keys are {', '.join(map(str, fields))[:200]}")
    answer = next((fields[key] for key in ANSWER_KEYS if isinstance(fields.get(key), str)), None)
    return prompt, answer or None


def _spoken(where: str, turn: object) -> tuple[str, str]:
    """Who says what. Turns that are mere texts are the user's."""
    if isinstance(turn, str):
        return "user", turn
    if isinstance(turn, dict):
        fields = cast("dict[str, Any]", turn)
        role, text = fields.get("from", fields.get("role")), fields.get("value", fields.get("content"))
        if isinstance(role, str) and isinstance(text, str):
            return "user" if role == "human" else role, text
    raise InvalidRequest(f"{where} has a turn without a role and a text")


def _opening(turns: list[tuple[str, str]]) -> tuple[str, str | None] | None:
    spoken = [turn for turn in turns if turn[0] != "system"]
    if not spoken or spoken[0][0] != "user" or not spoken[0][1].strip():
        return None
    answer = spoken[1][1] if len(spoken) > 1 and spoken[1][0] in ("gpt", "assistant") else None
    return spoken[0][1], answer or None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no UTF-8 text: byte {error.start} is wrong") from error
