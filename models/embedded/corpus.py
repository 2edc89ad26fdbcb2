"""The training corpus: dialogues and plain texts, put together from the grammars beside this file.

Every text is generated; nothing comes from outside. The same seed always gives the same corpus.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .grammar import Turn
from .smalltalk import smalltalk_turns
from .stories import story_text, story_turns

Skill = Callable[[random.Random], list[Turn]]

SKILLS: tuple[tuple[Skill, float], ...] = (
    (smalltalk_turns, 4.0),
    (story_turns, 2.0),
)


@dataclass
class Document:
    """A dialogue (a system message, perhaps, and turns) or, if there are no turns, a plain text."""

    text: str
    turns: list[Turn]

    def render(self) -> str:
        """Write the document with its markers, as the chat template does."""
        if not self.turns:
            return f"<|bos|>{self.text}<|end|>"
        parts = [f"<|system|>{self.text}<|end|>"] if self.text else []
        parts += [f"<|user|>{turn.user}<|end|><|assistant|>{turn.assistant}<|end|>" for turn in self.turns]
        return "<|bos|>" + "".join(parts)


def documents(seed: int) -> Iterator[Document]:
    """Generate documents without end."""
    rng = random.Random(seed)
    skills, weights = zip(*SKILLS, strict=True)
    while True:
        if rng.random() < 0.1:
            yield Document(story_text(rng), [])
            continue
        turns: list[Turn] = []
        for _ in range(rng.choice((1, 1, 2, 3, 4))):
            turns += rng.choices(skills, weights)[0](rng)
        yield Document(rng.choice(("", "", "You are a helpful assistant.")), turns)
