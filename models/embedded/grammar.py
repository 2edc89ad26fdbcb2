"""A small template language: ``[a|b]`` picks one option, ``{name}`` fills a slot.

Options nest. Choices are made before slots are filled, so the text of a slot is never read as a template.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
# "a" before a vowel becomes "an"; spelling and sound differ in a few words.
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|honest|hour)(?!uni|use|eu|one\b|once)")


@dataclass(frozen=True)
class Turn:
    """One exchange: what the user says and what the assistant answers."""

    user: str
    assistant: str


def expand(template: str, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """Return one text that the template can produce, with ``a``/``an`` put right."""
    text = template
    while (match := _CHOICE.search(text)) is not None:
        option = rng.choice(match.group(1).split("|"))
        text = text[: match.start()] + option + text[match.end() :]
    if slots:
        text = _SLOT.sub(lambda found: slots[found.group(1)], text)
    return _ARTICLE.sub(r"\1n ", text)


def pick(templates: Sequence[str], rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """Expand one of several templates."""
    return expand(rng.choice(templates), rng, slots)


def capital(text: str) -> str:
    """Put the first letter in upper case and leave the rest alone."""
    return text[:1].upper() + text[1:]


def sentence(templates: Sequence[str], rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """Expand one of several templates into text that starts with a capital letter."""
    return capital(pick(templates, rng, slots))


def join_and(items: Sequence[str]) -> str:
    """Join items as in "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]
