"""The training corpus: dialogues and plain texts, put together from the grammars beside this file.

Every text is generated; nothing comes from outside. The same seed always gives the same corpus.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .facts import fact_text, fact_turns
from .grammar import Turn, capital, expand, pick
from .limits import name_turn, recall_turn
from .misc import misc_turns
from .misc_texts import JOKES
from .smalltalk import answer_group, smalltalk_turns
from .smalltalk_texts import GREETINGS, MANNERS
from .stories import BOYS, GIRLS, PLACES, story_text, story_turns
from .tasks import made_up_word, task_turns
from .topics import topic_text, topic_turns

Skill = Callable[[random.Random], list[Turn]]

SKILLS: tuple[tuple[Skill, float], ...] = (
    (smalltalk_turns, 20.0),
    (story_turns, 8.0),
    (fact_turns, 18.0),
    (topic_turns, 20.0),
    (task_turns, 18.0),
    (misc_turns, 18.0),
)
SYSTEM_MESSAGES: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful[, friendly|, honest and harmless|, concise|, polite] assistant[.|. Answer briefly.|. Be concise.]",
    "You are [quire's embedded model|a tiny chat model|a friendly chatbot|an AI assistant|a kind teacher|a story teller][.|, and you help the "
    "user.]",
    "[Answer briefly.|Be brief.|Be kind.|Answer in whole sentences.|Always be polite.|Keep your answers short.|Use simple words.|Answer the "
    "question.]",
    "You are a helpful assistant. [Today is a nice day.|Do not lie.|If you do not know something, say so.|The user is a child.|Use simple English.]",
)
NAMED = (
    "You are {n}[.|, a helpful assistant.|, a friendly assistant.|, an AI assistant. Be kind.|, a chatbot. Answer briefly.]",
    "Your name is {n}. [|You are a helpful assistant.|Be polite.]",
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


_BEFORE = (
    "[please|hey,|hi,|ok,|so,|hello,|well,|now|and|ok now|hi!|hello!|hey!|quick question:|question:|a question:|i wonder,|um,|great.|thanks.|"
    "nice.|can you please|just|hmm,|alright,|yes, please|ok, then|then|cool,|sure.]"
)
_AFTER = "[please|thanks|thank you|pls|please?|:)|my friend|now|then|, please|for me|ok?|today]"


def _typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter."""
    if len(text) < 6:
        return text
    i = rng.randrange(1, len(text) - 2)
    if not text[i : i + 2].isalpha():
        return text
    return (
        text[:i]
        + rng.choice((text[i + 1] + text[i], text[i + 1], text[i] + text[i] + text[i + 1]))
        + text[i + 2 :]
    )


def as_typed(text: str, rng: random.Random) -> str:
    """Vary a question as people do when they type: case, punctuation, fillers, a slip of the finger."""
    if rng.random() < 0.08 and len(text) < 120:
        text = expand(_BEFORE, rng) + " " + (text if text.startswith("I ") else text[:1].lower() + text[1:])
        text = capital(text)
    if rng.random() < 0.05 and len(text) < 120:
        mark = text[-1] if text[-1:] in "?.!" else ""
        text = text.rstrip("?.!") + " " + expand(_AFTER, rng).removeprefix(" ") + mark
        text = text.replace(" , please", ", please")
    style = rng.random()
    if style < 0.30:
        text = text.rstrip("?.!").lower() or text
    elif style < 0.50:
        text = text.lower()
    elif style < 0.54:
        text = text.upper()
    elif style < 0.62:
        text = text.rstrip("?.!") or text
    elif style < 0.64:
        text += rng.choice(("!", "?", "??", "!!", "...", " ?", " !"))
    if rng.random() < 0.05:
        text = _typo(text, rng)
    return text.strip()


def _dialogue(rng: random.Random) -> Document:
    """A dialogue of one to five skills, perhaps with a greeting, a name, a goodbye and a system message."""
    skills, weights = zip(*SKILLS, strict=True)
    long = rng.random() < 0.04
    count = rng.randrange(6, 14) if long else rng.choice((1, 1, 1, 2, 2, 3, 4))
    parts = [skill(rng) for skill in rng.choices(skills, weights, k=count)]
    if rng.random() < 0.12:
        parts.insert(0, [answer_group(rng.choice(GREETINGS), rng)])
    system = pick(SYSTEM_MESSAGES, rng) if rng.random() < 0.25 else ""
    if rng.random() < 0.025:
        name = rng.choice((rng.choice(GIRLS), rng.choice(BOYS), capital(made_up_word(rng))))
        system = pick(NAMED, rng, {"n": name})
        user = pick(
            (
                "[what is your name|who are you|who is this|what's your name|hi, who are you|tell me your name][?|]",
            ),
            rng,
        )
        answer = pick(
            ("[My name is {n}.|I am {n}.] [|I am a tiny model, and quire runs me.|How can I help you?]",),
            rng,
            {"n": name},
        )
        parts.insert(0, [Turn(capital(user), answer.strip())])
    if rng.random() < 0.07:
        name = rng.choice((rng.choice(GIRLS), rng.choice(BOYS), capital(made_up_word(rng))))
        at = rng.randrange(len(parts) + 1)
        parts.insert(at, [name_turn(name, rng)])
        if rng.random() < 0.8:
            parts.insert(rng.randrange(at + 1, len(parts) + 1), [recall_turn(name, rng)])
    if rng.random() < 0.06:
        parts.append([answer_group(rng.choice(MANNERS[:2]), rng)])
    turns = [Turn(as_typed(turn.user, rng), turn.assistant) for part in parts for turn in part]
    return Document(system, turns)


_STARTS = (
    "[My name is|Hello, my name is|Hi, I am] {n}. I live {p}, and I am [happy|glad] to [meet|see] you. [I like to read and to walk by the "
    "sea.|I have a cat, and she likes to sleep.|Every morning I drink a cup of tea and look at the sky.]",
    "The future of AI is [open|bright|not written yet]. [Models will help people to learn and to work.|Small models will run everywhere, "
    "even on old computers.|It depends on what people make of it.]",
    "The meaning of life is [to be kind to each other|to learn and to love|a question that everyone must answer alone].",
    "The [weather|sky|day|morning|evening] was [beautiful|cold|warm|bright|grey], and {n} went out [for a walk|to see the sea|to buy bread]. "
    "[On the way, a cat came along.|The streets were quiet.|There was music in the air.] [It was a good day.|Then it began to rain.]",
    "I [like|love] [[cats|dogs|books|stories], because they make me|[music|the sea|the rain], because it makes me] happy.",
    "[The quick brown fox jumps over the lazy dog.|The cat sat on the mat.|The dog ran after the ball.] [Then it went to sleep.|It was a "
    "sunny day.|Nobody knew why.]",
)


def _plain(rng: random.Random) -> Document:
    """A plain text without markers, for completions."""
    case = rng.random()
    if case < 0.55:
        return Document(story_text(rng), [])
    if case < 0.72:
        return Document(fact_text(rng), [])
    if case < 0.87:
        return Document(topic_text(rng), [])
    if case < 0.91:
        return Document(rng.choice(JOKES), [])
    return Document(pick(_STARTS, rng, {"n": rng.choice(GIRLS + BOYS), "p": rng.choice(PLACES)}), [])


def documents(seed: int) -> Iterator[Document]:
    """Generate documents without end."""
    rng = random.Random(seed)
    while True:
        yield _plain(rng) if rng.random() < 0.08 else _dialogue(rng)
