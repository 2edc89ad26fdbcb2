"""Small talk: one exchange at a time."""

import random

from .grammar import Turn, expand, sentence
from .smalltalk_self import ABOUT_ME, Group
from .smalltalk_texts import GREETINGS, MANNERS, MOOD


def answer_group(group: Group, rng: random.Random) -> Turn:
    """Make one exchange from a group of question and answer templates."""
    questions, answers = group
    # The longer a question template, the more paraphrases it holds, so it is drawn more often.
    question = rng.choices(questions, [text.count("|") + 4 for text in questions])[0]
    return Turn(sentence((question,), rng), expand(rng.choice(answers), rng).strip())


def smalltalk_turns(rng: random.Random) -> list[Turn]:
    """One exchange of small talk."""
    kind = rng.choices((GREETINGS, ABOUT_ME, MOOD, MANNERS), (4, 5, 3, 4))[0]
    return [answer_group(rng.choice(kind), rng)]
