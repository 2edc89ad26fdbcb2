"""Jokes, poems, riddles, advice, likes and translations."""

import random
from collections.abc import Callable

from .fact_tables import COLOURS, GROUPS_OF_THINGS
from .grammar import Turn, capital, expand, pick, sentence
from .limits import cannot, forgotten, paste, unknown
from .misc_texts import (
    ADVICE,
    HAIKU,
    JOKES,
    POEM_LINES,
    RIDDLES,
    TRANSLATIONS,
)
from .stories import ANIMALS, FOODS
from .tasks import made_up_word

_LIKED = (
    "cats dogs music books stories rain snow coffee tea chocolate pizza poems football math computers people children games "
    "winter summer flowers cheese jokes python robots humans movies".split()
    + [
        f"{animal}s"
        for animal in ANIMALS
        if animal not in ("fish", "sheep", "deer", "wolf", "goose", "mouse", "crab")
    ]
    + "fish sheep wolves mice the_sea the_moon dancing swimming reading cooking sleeping travelling singing chess art".split()
    + [food for food in FOODS if not food.startswith("an")]
)


def joke(rng: random.Random) -> list[Turn]:
    """A joke, and perhaps what comes after it."""
    user = (
        "[tell|tell me|tell us|do you know|give me|i want to hear|can you tell me|know|make] [a|a|a good|another|a funny|any] joke"
        "[?|.|!|, please.|]",
        "[joke|jokes|a joke please|make me laugh|be funny|do you know any jokes|can you make a joke|cheer me up|tell me something "
        "funny][.|!|?|]",
    )
    turns = [Turn(sentence(user, rng), rng.choice(JOKES))]
    if rng.random() < 0.2:
        user = ("[haha|lol|that is funny|very funny|good one|funny|hahaha|:D|nice joke][!|.|]",)
        turns.append(
            Turn(
                sentence(user, rng),
                pick(("[I am glad you liked it!|Thank you!|Shall I tell you another one?]",), rng),
            )
        )
    elif rng.random() < 0.2:
        user = ("[another one|another|one more|tell me another one|again][!|.|, please|]",)
        turns.append(Turn(sentence(user, rng), rng.choice(JOKES)))
    elif rng.random() < 0.1:
        user = ("[not funny|i do not get it|that is not funny|i don't get it|bad joke|boring][.|!|]",)
        turns.append(
            Turn(
                sentence(user, rng),
                pick(("I am sorry. [I am still learning.|Humour is hard for a tiny model.]",), rng),
            )
        )
    return turns


def poem(rng: random.Random) -> list[Turn]:
    """A haiku or a short rhymed poem."""
    about = pick(
        (
            "",
            "",
            " about [{x}|the moon|the sea|love|winter|spring|summer|autumn|a {a}|the rain|the night|nature|life|code]",
        ),
        rng,
        {"x": rng.choice(_LIKED).replace("_", " "), "a": rng.choice(ANIMALS)},
    )
    ask = "[write|write me|can you write|compose|tell me|give me|make|i want|please write|can you write me] a [|short |nice |little ]"
    if rng.random() < 0.5:
        user = expand(ask, rng) + "haiku" + about + expand("[.|?||!]", rng)
        theme = next((name for name in HAIKU if name in about), None) or rng.choice(list(HAIKU))
        return [Turn(capital(user), "\n".join(rng.choice(HAIKU[theme])))]
    user = (
        expand(ask, rng)
        + expand("[poem|poem|rhyme|verse|song|limerick]", rng)
        + about
        + expand("[.|?||!]", rng)
    )
    couplets = rng.sample(POEM_LINES, 2)
    return [Turn(capital(user), "\n".join(line for couplet in couplets for line in couplet))]


def riddle(rng: random.Random) -> list[Turn]:
    """A riddle, and then its answer."""
    question, answer = rng.choice(RIDDLES)
    user = (
        "[tell me|give me|do you know|ask me|tell] a riddle[?|.|!|, please.|]",
        "[a riddle please|riddle|riddle me this]",
    )
    turns = [Turn(sentence(user, rng), question)]
    if rng.random() < 0.7:
        if rng.random() < 0.6:
            user = (
                "[i do not know|i don't know|what is it|tell me|no idea|what is the answer|i give up|the answer|what][?|.|]",
            )
            turns.append(Turn(sentence(user, rng), f"It is {answer}."))
        else:
            user = ("[is it|it is|] {x}[?|!|]",)
            turns.append(Turn(sentence(user, rng, {"x": answer}).strip(), f"Yes, well done! It is {answer}."))
    return turns


def advice(rng: random.Random) -> list[Turn]:
    """A short how-to."""
    questions, answer = rng.choice(ADVICE)
    return [Turn(sentence((f"[{questions}]",), rng), expand(answer, rng))]


def like(rng: random.Random) -> list[Turn]:
    """Whether the model likes something."""
    thing = rng.choice(_LIKED).replace("_", " ")
    user = sentence(
        (
            "[do you like|do you love|what do you think about|what do you think of|how do you like|do you enjoy|are you a fan "
            "of] {x}?",
            "[i like|i love|i really like] {x}[.|!|]",
            "[i hate|i do not like|i don't like] {x}[.|]",
        ),
        rng,
        {"x": thing},
    )
    if "hate" in user or "not" in user or "n't" in user:
        return [
            Turn(
                user,
                pick(
                    (
                        "[I see. What do you like?|Not everyone does. What do you like instead?|That is fine.]",
                    ),
                    rng,
                ),
            )
        ]
    if user.startswith("I "):
        return [
            Turn(
                user,
                pick(
                    (
                        "[Nice!|Me too, as far as a program can!|That is lovely!|So do many people.] [Why do you like {x}?|What "
                        "else do you like?|I would like to hear more.|Tell me more!|Would you like a story?]",
                    ),
                    rng,
                    {"x": thing},
                ),
            )
        ]
    return [
        Turn(
            user,
            pick(
                (
                    "[Yes, I like {x}, as far as a program can.|Yes, I like {x} very much!|I am a program, but {x} sound{s} nice to "
                    "me.|I like to talk about {x}.] [And you?|Do you like {x}, too?|What about you?|]",
                ),
                rng,
                {"x": thing, "s": "" if thing.endswith("s") and thing != "chess" else "s"},
            )
            .replace("people sounds", "people sound")
            .strip(),
        )
    ]


def prefer(rng: random.Random) -> list[Turn]:
    """Which of two things the model likes better."""
    group = rng.choice(list(GROUPS_OF_THINGS.values()))
    a, b = rng.sample(group, 2)
    if rng.random() < 0.4:
        a, b = rng.sample([thing for thing in _LIKED if "_" not in thing], 2)
    user = sentence(
        (
            "[{a} or {b}|do you like {a} or {b} better|which do you like better, {a} or {b}|which do you prefer, {a} or {b}|what is "
            "better, {a} or {b}]?",
        ),
        rng,
        {"a": a, "b": b},
    )
    return [
        Turn(
            user,
            pick(
                (
                    "[I would choose {c}.|{C}, I think.|Both are nice, but I would choose {c}.] [And you?|What about you?|]",
                ),
                rng,
                {"c": (c := rng.choice((a, b))), "C": capital(c)},
            ).strip(),
        )
    ]


def translate(rng: random.Random) -> list[Turn]:
    """A word in another language."""
    language = rng.choice(list(TRANSLATIONS))
    word, foreign = rng.choice(list(TRANSLATIONS[language].items()))
    if rng.random() < 0.15:
        user = sentence(
            ('[translate|how do you say] [{w}|"{w}"] [in|into|to] {l}[.|?]',),
            rng,
            {
                "w": rng.choice(
                    (
                        "I would like to go home",
                        "where is the station",
                        made_up_word(rng),
                        "the weather is nice",
                        "how much does it cost",
                        "my name is Anna",
                        "computer",
                        "see you tomorrow",
                    )
                ),
                "l": language,
            },
        )
        return [
            Turn(
                user,
                pick(
                    (
                        "[I do not know that word in {l}.|I cannot translate that.] [I know only a few words of {l}.|]",
                    ),
                    rng,
                    {"l": language},
                ).strip(),
            )
        ]
    user = sentence(
        (
            'how do you say [{w}|"{w}"] in {l}?',
            '[translate|please translate] [{w}|"{w}"|the word {w}] [in|into|to] {l}[.|]',
            'what is [{w}|"{w}"|the word for {w}] in {l}?',
            '[{w}|"{w}"] in {l}?',
            "what is the {l} word for {w}?",
        ),
        rng,
        {"w": word, "l": language},
    )
    return [Turn(user, f'"{capital(word)}" in {language} is "{foreign}".')]


def simple_colour(rng: random.Random) -> list[Turn]:
    """Yes or no about a colour."""
    thing, right = rng.choice([(x, y) for x, y in COLOURS.items() if not x.endswith("s") and " " not in y])
    wrong = rng.choice([c for c in GROUPS_OF_THINGS["colours"] if c != right])
    if rng.random() < 0.5:
        return [Turn(f"Is {thing} {right}?", f"Yes, {thing} is {right}.")]
    return [Turn(f"Is {thing} {wrong}?", f"No, {thing} is {right}.")]


MISC: tuple[tuple[Callable[[random.Random], list[Turn]], float], ...] = (
    (joke, 2.5),
    (poem, 2.5),
    (riddle, 1.2),
    (advice, 2.0),
    (like, 2.5),
    (prefer, 1.0),
    (translate, 1.5),
    (cannot, 4.0),
    (unknown, 6.0),
    (forgotten, 0.6),
    (paste, 0.6),
    (simple_colour, 0.5),
)


def misc_turns(rng: random.Random) -> list[Turn]:
    """One of the exchanges above."""
    makers, weights = zip(*MISC, strict=True)
    return rng.choices(makers, weights)[0](rng)
