"""Where the model's world ends: what it cannot do or know, and names it has or has not been told."""

import random

from .grammar import Turn, capital, expand, pick, sentence
from .misc_texts import CANNOT, PEOPLE_UNKNOWN, THINGS_UNKNOWN
from .stories import BOYS, GIRLS, make_story
from .tasks import made_up_word


def cannot(rng: random.Random) -> list[Turn]:
    """A wish that is beyond a tiny model."""
    questions, answers = rng.choice(CANNOT)
    user = sentence((f"[{questions}]",), rng, {"name": rng.choice(GIRLS + BOYS), "word": made_up_word(rng)})
    return [Turn(user, expand(f"[{answers}]", rng))]


def _unknown_thing(rng: random.Random) -> str:
    """Name something that is not in the model's world."""
    case = rng.random()
    if case < 0.6:
        return rng.choice(THINGS_UNKNOWN)
    if case < 0.8:
        return made_up_word(rng)
    return f"{made_up_word(rng)} {rng.choice(THINGS_UNKNOWN)}"


def unknown(rng: random.Random) -> list[Turn]:
    """A question about something outside the model's world."""
    if rng.random() < 0.3:
        first = rng.choice((rng.choice(GIRLS + BOYS), capital(made_up_word(rng))))
        who = rng.choice((rng.choice(PEOPLE_UNKNOWN), f"{first} {capital(made_up_word(rng))}"))
        user = sentence(
            (
                "[who is|who was|do you know|tell me about|when was] {x}[?|]",
                "[where was|when was] {x} born?",
                "what did {x} do?",
            ),
            rng,
            {"x": who},
        )
        return [
            Turn(
                user,
                pick(
                    (
                        "I do not know [who that is|{x}|that person]. [My world is very small.|I know only a few simple things.|"
                        "I am a tiny model.]",
                    ),
                    rng,
                    {"x": who},
                ),
            )
        ]
    thing = _unknown_thing(rng)
    user = sentence(
        (
            "[what is|what's|what are|explain|tell me about|how does|do you know|what do you know about|define|describe|what does] {x}"
            "[?|| work?| mean?]",
            "[who invented|when was|why is|where is|how do i use|how do i learn|what is the history of|what is the best|who "
            "discovered|how much is|where can i buy|what is the capital of|what is the price of|what is the population of|how many] {x}[?|]",
            "[write an essay about|write an article about|summarize|give me information about|teach me|help me with|i need help with|"
            "let us talk about|can you help me with|can we talk about] {x}[.|?|]",
        ),
        rng,
        {"x": thing},
    )
    return [
        Turn(
            user,
            pick(
                (
                    "[I do not know anything about {x}.|I do not know.|I am sorry, I do not know that.|{X} is not part of my small "
                    "world.|I have never learnt about {x}.] [I am only a tiny demonstration.|I know only a few simple things.|A larger "
                    "model would know.|Ask me for a story instead!|I am too small to know that.|]",
                ),
                rng,
                {"x": thing, "X": capital(thing)},
            ).strip(),
        )
    ]


def name_turn(name: str, rng: random.Random) -> Turn:
    """The user says their name."""
    user = pick(
        (
            "[my name is|i am|i'm|call me|hi, i am|hello, my name is|hi, my name is|you can call me|hello, i'm|they call me|hey, i am]"
            " {n}[.|!|]",
        ),
        rng,
        {"n": name},
    )
    answer = pick(
        (
            "[Nice to meet you, {n}!|Hello, {n}!|Hi {n}, nice to meet you!|Hello {n}, how are you?|Pleased to meet you, {n}!] [|How can I "
            "help you?|What can I do for you?|What would you like to talk about?]",
        ),
        rng,
        {"n": name},
    )
    return Turn(capital(user), answer.strip())


def recall_turn(name: str | None, rng: random.Random) -> Turn:
    """The user asks whether the model remembers their name."""
    user = pick(
        (
            "[what is my name|do you know my name|who am i|what's my name|do you remember my name|can you tell me my name|say my name][?|]",
        ),
        rng,
    )
    if name is None:
        return Turn(
            capital(user),
            pick(
                (
                    "I do not know your name. [What is your name?|You have not told me yet.|How shall I call you?]",
                ),
                rng,
            ),
        )
    return Turn(
        capital(user),
        pick(("[Your name is {n}.|You are {n}.|Your name is {n}, of course!]",), rng, {"n": name}),
    )


def forgotten(rng: random.Random) -> list[Turn]:
    """Ask for a name that was never told."""
    return [recall_turn(None, rng)]


def paste(rng: random.Random) -> list[Turn]:
    """A long pasted text with a task that is too hard."""
    story = make_story(rng).text
    user = pick(
        (
            "[summarize|summarise|summarize this|translate|correct|shorten|rewrite|analyze|what do you think about] [this|this text|the "
            "following|this story|the text]: {t}",
            "{t} [summarize this.|what is this text about?|who is in this text?|tl;dr|what is the "
            "moral of this story?]",
        ),
        rng,
        {"t": story},
    )
    return [
        Turn(
            capital(user),
            pick(
                (
                    "[I am sorry, I am too small to do that.|That text is too long for me.|I cannot work with long texts.] [I can "
                    "tell you a story of my own.|A larger model can do that.|Ask me something short.]",
                ),
                rng,
            ),
        )
    ]
