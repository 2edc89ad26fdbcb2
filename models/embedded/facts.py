"""Simple facts as tables, and the templates that ask for them."""

import random
from collections.abc import Callable

from .fact_orders import NUMBERS, ask, calendar, letter, planet
from .fact_tables import (
    CAPITALS,
    COLOURS,
    CONTINENTS,
    EATS,
    GROUPS_OF_THINGS,
    HOMES,
    LEGS,
    MEANINGS,
    OPPOSITES,
    PASTS,
    PLURALS,
    QUIZ,
    RHYMES,
    SIZES,
    SOUNDS,
    YOUNG,
)
from .grammar import Turn, capital, expand, join_and, pick

# Kinds that share no member, so that "no" is always true.
COUNTABLE = "animals fruits vegetables birds flowers instruments tools vehicles insects shapes".split()

Fact = Callable[[random.Random], Turn]


def capital_city(rng: random.Random) -> Turn:
    """Ask for a capital, or for the country of a capital."""
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.15:
        return ask(
            rng,
            "{y} is the capital of [which|what] country?|[which|what] country has the capital {y}?|where is {y}?|"
            "in which country is {y}?",
            "{y} is the capital of {x}.",
            x=country,
            y=city,
        )
    if rng.random() < 0.2:
        where = CONTINENTS[country]
        return ask(
            rng,
            "where is {x}?|on which continent is {x}?|where can i find {x}?|which continent is {x} in?|"
            "what continent is {x} on?",
            "{x} is [a country |]in {y}.",
            x=country,
            y=where,
        )
    return ask(
        rng,
        "what is the capital of {x}?|what's the capital of {x}?|what is the capital city of {x}?|which city is the capital of "
        "{x}?|name the capital of {x}.|do you know the capital of {x}?|tell me the capital of {x}.|{x}'s capital?|capital of "
        "{x}?|what is {x}'s capital?|can you tell me the capital of {x}?|and the capital of {x}?|and {x}'s capital?",
        "the capital of {x} is {y}.|the capital of {x} is {y}.|{y} is the capital of {x}.",
        x=country,
        y=city,
    )


def opposite(rng: random.Random) -> Turn:
    """Ask for an antonym."""
    x, y = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        x, y = y, x
    return ask(
        rng,
        "what is the opposite of {x}?|the opposite of {x}?|what's the opposite of {x}?|give me the opposite of "
        '{x}.|which word means the opposite of {x}?|opposite of {x}|antonym of {x}|name the opposite of "{x}".',
        "the opposite of {x} is {y}.",
        x=x,
        y=y,
    )


def plural(rng: random.Random) -> Turn:
    """Ask for a plural."""
    x, y = rng.choice(list(PLURALS.items()))
    return ask(
        rng,
        "what is the plural of {x}?|the plural of {x}?|what's the plural of {x}?|plural of {x}|one {x}, two ...?|"
        "how do you say more than one {x}?|what is the plural form of {x}?",
        "the plural of {x} is {y}.",
        x=x,
        y=y,
    )


def past(rng: random.Random) -> Turn:
    """Ask for a past tense."""
    x, y = rng.choice(list(PASTS.items()))
    return ask(
        rng,
        "what is the past tense of {x}?|the past tense of {x}?|past tense of {x}|what's the past of {x}?|past of "
        '"{x}"?',
        "the past tense of {x} is {y}.",
        x=x,
        y=y,
    )


def sound(rng: random.Random) -> Turn:
    """Ask what an animal says."""
    x, y = rng.choice(list(SOUNDS.items()))
    return ask(
        rng,
        "what does a {x} say?|what sound does a {x} make?|which sound does a {x} make?|what noise does a {x} "
        "make?|how does a {x} sound?|what does the {x} say?",
        'a {x} says {y}.|a {x} says "{y}".',
        x=x,
        y=y,
    )


def home(rng: random.Random) -> Turn:
    """Ask where an animal lives."""
    x, y = rng.choice(list(HOMES.items()))
    return ask(
        rng,
        "where do {x} live?|where can you find {x}?|what is the home of {x}?|where do {x} sleep and live?",
        "{x} live {y}.",
        x=x,
        y=y,
    )


def eats(rng: random.Random) -> Turn:
    """Ask what an animal eats."""
    x, y = rng.choice(list(EATS.items()))
    return ask(
        rng,
        "what do {x} eat?|what do {x} like to eat?|what is the food of {x}?|what should i feed {x}?|what food do "
        "{x} eat?",
        "{x} eat {y}.",
        x=x,
        y=y,
    )


def young(rng: random.Random) -> Turn:
    """Ask what a young animal is called."""
    x, y = rng.choice(list(YOUNG.items()))
    return ask(
        rng,
        "what is a baby {x} called?|what do you call a young {x}?|what is a young {x} called?|how do you call a "
        "baby {x}?",
        "a [baby|young] {x} is called a {y}.",
        x=x,
        y=y,
    )


def colour(rng: random.Random) -> Turn:
    """Ask for the colour of something."""
    x, y = rng.choice(list(COLOURS.items()))
    verb = "are" if x.endswith("s") and x not in ("grass", "the grass") else "is"
    return ask(
        rng,
        "what colo[u|]r {v} {x}?|which colo[u|]r {v} {x}?|what is the colo[u|]r of {x}?|what colo[u|]r do{es} {x} "
        "have?|tell me the colo[u|]r of {x}.",
        "{x} {v} {y}.",
        x=x,
        y=y,
        v=verb,
        es="" if verb == "are" else "es",
    )


def legs(rng: random.Random) -> Turn:
    """Ask for the number of legs."""
    x, y = rng.choice(list(LEGS.items()))
    return ask(
        rng,
        "how many legs does a {x} have?|how many legs has a {x}?|the number of legs of a {x}?|how many legs does "
        "the {x} have?|does a {x} have legs?",
        "a {x} has {y} legs.",
        x=x,
        y=y,
    )


def meaning(rng: random.Random) -> Turn:
    """Ask what a word means."""
    x, y = rng.choice(list(MEANINGS.items()))
    bare = x.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    return ask(
        rng,
        'what is {x}?|what\'s {x}?|what is {x}?|tell me about {x}.|explain {x}.|what does "{b}" mean?|what are '
        "{b}s?|define {b}.|do you know what {x} is?|describe {x}.|what do you know about {x}?|who or what is {x}?",
        "{x} is {y}.",
        x=x,
        y=y,
        b=bare,
    )


def compare(rng: random.Random) -> Turn:
    """Ask which of two animals or things is bigger."""
    i, j = sorted(rng.sample(range(len(SIZES)), 2))
    a, b = ("a " + SIZES[k] for k in rng.sample((i, j), 2))
    big, small = "a " + SIZES[j], "a " + SIZES[i]
    case = rng.random()
    if case < 0.4:
        return ask(
            rng,
            "[which|what] is bigger, {a} or {b}?|[which|what] is larger: {a} or {b}?|who is bigger, {a} or {b}?",
            "{x} is bigger than {y}.",
            a=a,
            b=b,
            x=big,
            y=small,
        )
    if case < 0.6:
        return ask(
            rng,
            "[which|what] is smaller, {a} or {b}?|who is smaller, {a} or {b}?",
            "{y} is smaller than {x}.",
            a=a,
            b=b,
            x=big,
            y=small,
        )
    if a == big:
        return ask(rng, "is {a} [bigger|larger] than {b}?", "yes, {a} is bigger than {b}.", a=a, b=b)
    return ask(rng, "is {a} [bigger|larger] than {b}?", "no, {a} is smaller than {b}.", a=a, b=b)


def rhyme(rng: random.Random) -> Turn:
    """Ask for a rhyme."""
    words = rng.choice(RHYMES)
    x, y, z = rng.sample(words, 3)
    return ask(
        rng,
        "what rhymes with {x}?|give me a rhyme for {x}.|which word rhymes with {x}?|find a rhyme for {x}.|a word "
        "that rhymes with {x}?|rhyme with {x}",
        "{y} rhymes with {x}.|{y} and {z} rhyme with {x}.|{x} rhymes with {y}.",
        x=x,
        y=y,
        z=z,
    )


def name_some(rng: random.Random) -> Turn:
    """Ask for a list of things of one kind."""
    kind, things = rng.choice(list(GROUPS_OF_THINGS.items()))
    count = rng.choice((2, 3, 3, 3, 4, 5, 5))
    chosen = rng.sample(things, count)
    number = rng.choice((NUMBERS[count], str(count)))
    style = rng.random()
    user = pick(
        (
            "[name|tell me|list|give me|can you name|show me|write|i need|give me a list of|make a list of|list me] {n} "
            "{k}[|.|, please.|?]",
        ),
        rng,
        {"n": number, "k": kind},
    )
    if style < 0.12:
        kind_user = pick(
            ("[name|list|give me a list of|tell me|make a list of|do you know] [|some ]{k}[|.|?]",),
            rng,
            {"k": kind},
        )
        return Turn(capital(kind_user), f"Some {kind} are {join_and(rng.sample(things, 4))}.")
    if style < 0.5:
        return Turn(capital(user), "\n".join(f"{i}. {capital(thing)}" for i, thing in enumerate(chosen, 1)))
    if style < 0.62:
        return Turn(capital(user), capital(f"{number} {kind} are {join_and(chosen)}."))
    return Turn(capital(user), capital(join_and(chosen)) + ".")


def belongs(rng: random.Random) -> Turn:
    """Ask whether a thing is of a kind."""
    kind = rng.choice(COUNTABLE)
    other = rng.choice([name for name in COUNTABLE if name != kind])
    slots = {
        "x": rng.choice(GROUPS_OF_THINGS[kind]),
        "k": kind.removesuffix("s"),
        "o": other.removesuffix("s"),
    }
    if rng.random() < 0.5:
        return ask(rng, "is a {x} a {k}?|is {x} a {k}?", "yes, a {x} is a {k}.", **slots)
    return ask(rng, "is a {x} a {o}?|is {x} a {o}?", "no, a {x} is a {k}.", **slots)


def quiz(rng: random.Random) -> Turn:
    """A single fact with its own question."""
    questions, answers = rng.choice(QUIZ)
    return ask(rng, questions, answers)


FACTS: tuple[tuple[Fact, float], ...] = (
    (capital_city, 5.0),
    (opposite, 2.5),
    (plural, 1.5),
    (past, 1.2),
    (sound, 1.2),
    (home, 1.2),
    (eats, 1.2),
    (young, 1.0),
    (colour, 2.0),
    (legs, 1.0),
    (meaning, 4.5),
    (compare, 1.5),
    (calendar, 2.0),
    (planet, 0.7),
    (letter, 1.2),
    (rhyme, 1.2),
    (name_some, 3.0),
    (belongs, 1.2),
    (quiz, 6.0),
)


def fact_turns(rng: random.Random) -> list[Turn]:
    """One to three questions about facts, sometimes of one kind."""
    makers, weights = zip(*FACTS, strict=True)
    count = rng.choice((1, 1, 2, 3))
    if rng.random() < 0.4:
        maker = rng.choices(makers, weights)[0]
        return [maker(rng) for _ in range(count)]
    return [maker(rng) for maker in rng.choices(makers, weights, k=count)]


def fact_text(rng: random.Random) -> str:
    """Facts as plain sentences, for completions without a chat."""
    makers = (capital_city, opposite, plural, sound, home, eats, colour, meaning, planet)
    return " ".join(expand(rng.choice(makers)(rng).assistant, rng) for _ in range(rng.choice((1, 2, 4, 6))))
