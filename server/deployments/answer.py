"""What a version answered, kept to be compared with what its shadow answers."""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Iterable

from ...engine.outputs import RequestOutput

MOST_CHARACTERS = 1 << 18


class SpokenAnswer:
    """A language model's answer: the texts of its choices, or vectors. Of long texts the beginning counts."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._vectors: dict[int, tuple[float, ...]] = {}
        self._num_characters = 0

    def hear(self, batch: Iterable[tuple[int, RequestOutput]]) -> None:
        """What came since the last batch."""
        for prompt, output in batch:
            if output.pooled is not None:
                self._vectors[prompt] = struct.unpack(f"<{len(output.pooled) // 4}f", output.pooled)
            for part in output.outputs:
                pieces = self._texts.setdefault((prompt, part.index), [])
                if self._num_characters < MOST_CHARACTERS:
                    pieces.append(part.text)
                    self._num_characters += len(part.text)

    def similarity(self, other: SpokenAnswer, tolerance: float) -> float:
        """How alike two answers are, from 0 to 1.

        Of each text, the share that is the same from the beginning on; of each vector, the cosine, where 1
        less `tolerance` counts as 1. Averaged; what one has and the other has not counts 0.
        """
        found = [
            _same_beginning("".join(self._texts.get(key, ())), "".join(other._texts.get(key, ())))
            if key in self._texts and key in other._texts
            else 0.0
            for key in self._texts.keys() | other._texts.keys()
        ]
        for key in self._vectors.keys() | other._vectors.keys():
            cosine = _cosine(self._vectors.get(key, ()), other._vectors.get(key, ()))
            found.append(1.0 if cosine >= 1 - tolerance else max(0.0, cosine))
        return sum(found) / len(found) if found else 0.0


def _same_beginning(first: str, second: str) -> float:
    longest = max(len(first), len(second))
    same = sum(1 for _ in itertools.takewhile(operator.truth, map(operator.eq, first, second)))
    return same / longest if longest else 1.0


def _cosine(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    if len(first) != len(second):
        return 0.0
    norms = math.hypot(*first) * math.hypot(*second)
    return sum(map(operator.mul, first, second)) / norms if norms else float(first == second)
