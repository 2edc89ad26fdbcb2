"""Little tasks: sums, counting, spelling, echoing, comparing numbers."""

import random
from collections.abc import Callable

from .fact_tables import GROUPS_OF_THINGS, MEANINGS, PASTS
from .grammar import Turn, capital, expand, sentence
from .stories import BOYS, GIRLS

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = sorted(
    {word for group in GROUPS_OF_THINGS.values() for word in group if word.isalpha() and word.islower()}
    | {word for name in MEANINGS for word in name.split() if len(word) > 2 and word != "the"}
    | set(PASTS)
    | set(
        "hello world banana friend school garden window summer winter morning evening kitchen yellow purple orange please "
        "thank sorry people mother father sister brother music letter number street market paper pencil green water table quire "
        "token engine happy because beautiful computer science language different elephant giraffe umbrella necessary "
        "tomorrow february wednesday chocolate restaurant memory cache server model python attention".split()
    )
)


def held_out_sum(a: int, b: int) -> bool:
    """Whether a sum or difference of these numbers is kept out of training, to measure whether the rule was learnt."""
    return a > 10 and b > 10 and (a * 31 + b * 17) % 20 == 0


def in_words(n: int) -> str:
    """Write a number from 0 to 99 in words."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")


def _operands(rng: random.Random) -> tuple[str, int, int, int]:
    """Choose an operator, its operands and the result; small numbers are more common."""
    case = rng.random()
    top = rng.choice((10, 10, 20, 50, 100, 100))
    a, b = rng.randrange(top), rng.randrange(top)
    if case < 0.5:
        return "+", a, b, a + b
    if case < 0.75:
        a, b = (a, b) if rng.random() < 0.1 and top <= 20 else (max(a, b), min(a, b))
        return "-", a, b, a - b
    a, b = rng.randrange(13), rng.randrange(13)
    if case < 0.93:
        return "*", a, b, a * b
    return "/", a * max(1, b), max(1, b), a


_SIGNS = {
    "+": ("[ + | + | + |+| plus | and ]", "plus"),
    "-": ("[ - | - | - |-| minus | take away ]", "minus"),
    "*": ("[ x | * | * | times | times |*| multiplied by ]", "times"),
    "/": ("[ / | / | divided by |/]", "divided by"),
}


def arithmetic(rng: random.Random) -> Turn:
    """A sum, difference, product or quotient."""
    sign, a, b, result = _operands(rng)
    while sign in "+-" and held_out_sum(a, b):
        sign, a, b, result = _operands(rng)
    symbols, word = _SIGNS[sign]
    if rng.random() < 0.15 and max(a, b) < 21 and result >= 0:
        slots = {
            "a": in_words(a),
            "b": in_words(b),
            "w": word,
            "r": in_words(result) if result < 100 else str(result),
        }
        user = sentence(
            ("[what is|what's|how much is|calculate|and|] {a} {w} {b}[?|?|]",), rng, slots
        ).strip()
        return Turn(capital(user), expand("{a} {w} {b} is {r}.", rng, slots).capitalize())
    text = str(a) + expand(symbols, rng) + str(b)
    user = expand(
        "[what is|what's|whats|how much is|calculate|compute|can you calculate|what does|solve|and|tell me|do you know|what is|how "
        "much is|can you add|please calculate||||] {t}[?|?|?|| =| = ?|=]",
        rng,
        {"t": text},
    ).strip()
    symbol = {"*": "x"}.get(sign, sign)
    answer = rng.choice(("{a} {s} {b} = {r}.",) * 3 + ("{a} {s} {b} is {r}.", "The answer is {r}."))
    return Turn(capital(user), answer.format(a=a, s=symbol, b=b, r=result))


def word_problem(rng: random.Random) -> Turn:
    """A sum dressed as a tiny story."""
    thing = rng.choice(
        "apples oranges books coins marbles cookies pencils eggs stones cats flowers balloons".split()
    )
    name = rng.choice(GIRLS + BOYS)
    a, b = rng.randrange(2, 21), rng.randrange(1, 11)
    if rng.random() < 0.5:
        user = f"{name} has {a} {thing} and [gets|finds|buys] {b} more. How many {thing} does {name} have[| now]?"
        if rng.random() < 0.4:
            user = f"[I have|If I have] {a} {thing} and [get|buy|find] {b} more[.| ,] how many [{thing} |]do I have[| now]?"
            return Turn(expand(user, rng), f"You have {a} + {b} = {a + b} {thing}.")
        return Turn(expand(user, rng), f"{name} has {a} + {b} = {a + b} {thing}.")
    a = max(a, b + 1)
    user = f"{name} has {a} {thing} and [gives away|loses|eats|sells] {b}. How many {thing} [are left|does {name} have now]?"
    return Turn(expand(user, rng), f"{name} has {a} - {b} = {a - b} {thing} left.")


def remainder(rng: random.Random) -> Turn:
    """A division that leaves something over."""
    b = rng.randrange(2, 11)
    a = b * rng.randrange(1, 10) + rng.randrange(1, b)
    user = expand(f"[what is|how much is|calculate|] {a}[ / |/| divided by ]{b}[?|]", rng).strip()
    return Turn(capital(user), f"{a} / {b} is {a // b}, and {a % b} is left over.")


def too_big(rng: random.Random) -> Turn:
    """A calculation that is out of reach, and an honest answer."""
    a, b = rng.randrange(100, 100_000), rng.randrange(13, 100_000)
    sign = rng.choice(("+", "-", "*", "x", "/", "times", "plus", "divided by"))
    user = expand(
        f"[what is|what's|how much is|calculate|compute|] [{a} {sign} {b}|{b} {sign} {a}|the square root of {a}|{a} squared|{a % 100}% "
        f"of {b}|the factorial of {b % 100}|{a % 100}.{b % 10} {sign} {b % 100}.{a % 10}|log({a})|{a} mod {b}|the {a}th prime "
        "number|pi|the square root of two|the integral of x|the derivative of x squared|sin(x)][?|]",
        rng,
    ).strip()
    answer = (
        "[That is too hard for me.|That is too difficult for me.|I cannot do that, I am too small.] [I can add and subtract numbers "
        "up to 99, and multiply up to 12.|I only know small sums, such as 7 + 8.|Small numbers are all that I can do.]"
    )
    return Turn(capital(user), expand(answer, rng))


def counting(rng: random.Random) -> Turn:
    """Count up or down."""
    case = rng.random()
    if case < 0.5:
        end = rng.choice((3, 5, 10, 10, 10, 12, 15, 20, rng.randrange(2, 30)))
        user, numbers = (
            f"[count|please count|can you count|count up|count from 1|count from one] to {end}[.|?||!]",
            range(1, end + 1),
        )
    elif case < 0.8:
        start = rng.randrange(1, 40)
        end = start + rng.randrange(2, 12)
        user, numbers = (
            f"[count|can you count|list the numbers|numbers] from {start} to {end}[.|?|]",
            range(start, end + 1),
        )
    else:
        start = rng.choice((3, 5, 10, 10, rng.randrange(3, 15)))
        user = f"count [down|backwards] from {start}[| to 1][.|?|]"
        return Turn(sentence((user,), rng), ", ".join(str(n) for n in range(start, 0, -1)) + ".")
    return Turn(sentence((user,), rng), ", ".join(str(n) for n in numbers) + ".")


def numbers(rng: random.Random) -> Turn:
    """Odd or even, larger or smaller, in words, the next number."""
    case, a, b = rng.randrange(5), rng.randrange(100), rng.randrange(100)
    if case == 0:
        kind = "even" if a % 2 == 0 else "odd"
        user = f"[is {a} odd or even?|is {a} even or odd?|is {a} [even|odd]?]"
        return Turn(sentence((user,), rng), f"{a} is {kind}.")
    if case == 1 and a != b:
        if rng.random() < 0.5:
            return Turn(
                sentence((f"[which|what] is [bigger|larger|greater|more], {a} or {b}?",), rng),
                f"{max(a, b)} is larger than {min(a, b)}.",
            )
        return Turn(
            sentence((f"[which|what] is [smaller|less], {a} or {b}?",), rng),
            f"{min(a, b)} is smaller than {max(a, b)}.",
        )
    if case == 2:
        return Turn(
            sentence((f"[[write|say|spell] {a} in words[.|]|how do you write {a} in words?]",), rng),
            f"{a} in words is {in_words(a)}.",
        )
    if case == 3:
        return Turn(
            sentence((f"[[what|which] number comes after {a}?|what comes after {a}?]",), rng),
            f"{a + 1} comes after {a}.",
        )
    return Turn(sentence((f"[what|which] number comes before {a + 1}?",), rng), f"{a} comes before {a + 1}.")


def spelling(rng: random.Random) -> Turn:
    """Spell a word, or count its letters."""
    word = rng.choice(WORDS)
    slots = {"w": rng.choice((word, f'"{word}"')), "s": "-".join(word.upper())}
    case = rng.random()
    if case < 0.7:
        user = (
            "[how do you spell|spell|can you spell|please spell|spell the word|how do i spell] {w}[?|.|| please]",
            "how do you write {w}?",
        )
        return Turn(sentence(user, rng, slots), slots["s"] + ".")
    if case < 0.85:
        user = (
            "[what is the first letter of {w}?|which letter does {w} start with?|what letter does {w} begin with?]",
        )
        return Turn(sentence(user, rng, slots), f"{capital(word)} starts with {word[0].upper()}.")
    user = ("how many letters does {w} have?", "how many letters are in the word {w}?")
    return Turn(sentence(user, rng, slots), f"{slots['s']}: {len(word)} letters.")


_SYLLABLES = "ba be bi bo bu da de do fa fi ka ki ko la le lo lu ma mi mo na ne ni no pa pe ra ri ro sa si so ta te ti tu va za".split()


def made_up_word(rng: random.Random) -> str:
    """A word that does not exist."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3)))) + rng.choice(
        ("", "", "n", "r", "s", "x", "th")
    )


_PHRASES = (
    "[hello|good morning|good night|goodbye|hi|welcome] [world|everyone|my friend|there|{n}]",
    "[i like|i love|we need|give me|look at|here is] [the|a|my|your] {a} {w}",
    "the {a} {w} [is|was] [big|small|red|blue|happy|here|gone]",
    "{w} {v} {a}",
    "{w}",
    "{v}",
    "{n} and {m}",
    "{w}, {v}, {a}",
    "{w} {w}",
)


def echo(rng: random.Random) -> Turn:
    """Repeat what the user wants repeated."""
    slots = {
        "w": rng.choice((rng.choice(WORDS), made_up_word(rng))),
        "v": rng.choice((rng.choice(WORDS), made_up_word(rng))),
        "a": rng.choice(WORDS),
        "n": rng.choice(GIRLS + BOYS),
        "m": rng.choice(GIRLS + BOYS),
    }
    phrase = sentence(_PHRASES, rng, slots)
    user = sentence(
        (
            "[say|repeat|please say|please repeat|repeat after me:|can you say|say:|echo|write|print|just say|only say|say exactly:] [{p}|"
            '"{p}"|"{p}"|\'{p}\'|the word {p}|the words "{p}"][.||]',
        ),
        rng,
        {"p": phrase},
    )
    return Turn(user, phrase + rng.choice((".", "", ".")))


TASKS: tuple[tuple[Callable[[random.Random], Turn], float], ...] = (
    (arithmetic, 10.0),
    (word_problem, 1.5),
    (remainder, 0.5),
    (too_big, 1.0),
    (counting, 1.5),
    (numbers, 1.5),
    (spelling, 2.0),
    (echo, 2.5),
)


def task_turns(rng: random.Random) -> list[Turn]:
    """One to five tasks; sums often come in a row."""
    makers, weights = zip(*TASKS, strict=True)
    if rng.random() < 0.3:
        return [arithmetic(rng) for _ in range(rng.choice((2, 3, 4, 5, 6)))]
    return [rng.choices(makers, weights)[0](rng) for _ in range(rng.choice((1, 1, 2)))]
