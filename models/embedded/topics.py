"""Questions about LLM serving and quire, and their answers."""

import random
from dataclasses import dataclass, field

from .grammar import Turn, capital, expand, sentence
from .topic_texts import TOPICS_TEXT


@dataclass
class Topic:
    """A word of the trade: its names, ways to define it and further details."""

    names: list[str]
    definitions: list[str] = field(default_factory=lambda: list[str]())
    details: list[str] = field(default_factory=lambda: list[str]())


def read_topics(text: str) -> list[Topic]:
    """Parse the table of topics."""
    topics: list[Topic] = []
    for line in text.strip().splitlines():
        if line.startswith("= "):
            topics[-1].definitions.append(line[2:])
        elif line.startswith("- "):
            topics[-1].details.append(line[2:])
        else:
            topics.append(Topic(line.split("|")))
    return topics


TOPICS = read_topics(TOPICS_TEXT)
# The words that people will ask this model first are asked more often.
_WEIGHTS = [4.0 if i < 1 else 2.0 if i < 36 else 1.0 for i in range(len(TOPICS))]

_QUESTIONS = (
    "[what is|what's|whats|what are|what is|what is] {x}[?|?|?|]",
    "[what is|what's] {x} [in simple words|in one sentence|exactly|good for|used for|all about|in quire|in llm serving|and why is "
    "it useful|for]?",
    "[explain|can you explain|please explain|define|describe|could you explain|explain briefly] {x}[.|?|| to me.| in one sentence.| "
    "in simple words.| like i am five.| briefly.| please.]",
    "[tell me|tell me something|can you tell me something|talk to me|teach me] about {x}[.|?|, please.]",
    "how [does|do] {x} work[?|?|| in quire?| exactly?]",
    "what does {x} [mean|do]?",
    "[what do you know about|do you know|do you know what is|have you heard of|what can you tell me about|i want to know about|i "
    "want to learn about|what about|and what is|and] {x}?",
    "[why do we need {x}|why is {x} useful|why is {x} important|why does quire use {x}|why should i use {x}|why use {x}|what is {x} for|is "
    "{x} important|is {x} useful]?",
    "{x}[?|]",
    "[does quire have|does quire support|does quire use] {x}?",
    "what is the [meaning|definition|idea|purpose|point|advantage|benefit] of {x}?",
)
_MORE = (
    "[tell me more|more|tell me more about it|more details|and|go on|can you say more|what else|more please|explain more|anything "
    "else|and what else|tell me a bit more|why is that good|why is it useful|why|how does it help|is it important][?|.|]",
)
_NO_MORE = (
    "[That is all I know about it.|I know no more than that, I am sorry.|That is all that a tiny model can say about it.|More I do "
    "not know.]",
)


def topic_turns(rng: random.Random) -> list[Turn]:
    """Ask about a topic, and perhaps for more."""
    topic = rng.choices(TOPICS, _WEIGHTS)[0]
    name = topic.names[0] if rng.random() < 0.4 else rng.choice(topic.names)
    bare = name.removeprefix("the ").removeprefix("a ").removeprefix("an ")
    question = rng.choices(_QUESTIONS, (8, 2, 3, 3, 4, 2, 2, 1, 2, 1, 1))[0]
    if rng.random() < 0.15:
        other = rng.choice(TOPICS)
        if other is not topic and rng.random() < 0.3:
            user = f"What is the difference between {bare} and {other.names[0]}?"
            return [Turn(user, f"{rng.choice(topic.definitions)} {rng.choice(other.definitions)}")]
    user = sentence((question,), rng, {"x": name if "what" in question else bare})
    details = rng.sample(topic.details, len(topic.details))
    said = rng.choice((0, 1, 1, 2))
    turns = [Turn(user, " ".join([rng.choice(topic.definitions), *details[:said]]))]
    if rng.random() < 0.3:
        rest = details[said : said + 2]
        turns.append(
            Turn(sentence(_MORE, rng), " ".join(rest) if rest else expand(rng.choice(_NO_MORE), rng))
        )
    return turns


def topic_text(rng: random.Random) -> str:
    """One topic as plain text, for completions without a chat."""
    topic = rng.choices(TOPICS, _WEIGHTS)[0]
    details = rng.sample(topic.details, min(len(topic.details), rng.choice((1, 2, 3))))
    return capital(" ".join([rng.choice(topic.definitions), *details]))
