"""What comes before and after: days, months, planets and letters; and the helper that all facts share."""

import random

from .grammar import Turn, sentence

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()


def ask(rng: random.Random, questions: str, answers: str, **slots: str) -> Turn:
    """One exchange from a template of questions and one of answers."""
    return Turn(sentence((f"[{questions}]",), rng, slots), sentence((f"[{answers}]",), rng, slots))


def calendar(rng: random.Random) -> Turn:
    """Ask for the day or month before or after another, or for one by its number."""
    items, word = rng.choice(((DAYS, "day"), (MONTHS, "month")))
    i = rng.randrange(len(items))
    slots = {
        "w": word,
        "x": items[i],
        "n": items[(i + 1) % len(items)],
        "p": items[i - 1],
        "o": ORDINALS[i],
        "of": "week" if word == "day" else "year",
    }
    case = rng.randrange(3)
    if case == 0:
        return ask(
            rng,
            "[what|which] {w} [comes|is] after {x}?|what comes after {x}?|what {w} follows {x}?",
            "{n} comes after {x}.|after {x} comes {n}.",
            **slots,
        )
    if case == 1:
        return ask(
            rng,
            "[what|which] {w} [comes|is] before {x}?|what comes before {x}?",
            "{p} comes before {x}.|before {x} comes {p}.",
            **slots,
        )
    return ask(
        rng,
        "what is the {o} {w} of the {of}?|which {w} is the {o}?|what is the {o} {w}?",
        "the {o} {w} of the {of} is {x}.",
        **slots,
    )


def planet(rng: random.Random) -> Turn:
    """Ask for the order of the planets."""
    i = rng.randrange(8)
    return ask(
        rng,
        "what is the {o} planet[| from the sun]?|which planet is [the {o}|number {n}]?|what planet is the {o} from "
        "the sun?",
        "the {o} planet from the sun is {x}.",
        o=ORDINALS[i],
        x=PLANETS[i],
        n=NUMBERS[i + 1],
    )


def letter(rng: random.Random) -> Turn:
    """Ask for the letter before or after another."""
    i = rng.randrange(1, 25)
    x, n, p = chr(65 + i), chr(66 + i), chr(64 + i)
    if rng.random() < 0.6:
        return ask(
            rng,
            "[what|which] letter comes after {x}?|what is the letter after {x}?|what comes after {x} in the "
            "alphabet?",
            "the letter after {x} is {n}.",
            x=x,
            n=n,
        )
    return ask(
        rng,
        "[what|which] letter comes before {x}?|what is the letter before {x}?",
        "the letter before {x} is {n}.",
        x=x,
        n=p,
    )
