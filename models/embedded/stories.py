"""The story grammar: characters, places and plots, and the turns that ask for a story."""

import random
from dataclasses import dataclass

from .grammar import Turn, capital, expand, sentence
from .story_plots import ENDINGS, OPENINGS, PLOTS, SEQUELS

ANIMALS = (
    "fox rabbit cat dog owl mouse bear turtle penguin elephant lion monkey frog duck horse snail bee whale dolphin "
    "wolf hedgehog squirrel tiger pony sheep goat crow sparrow fish otter badger deer butterfly dinosaur bat "
    "giraffe zebra kangaroo koala panda hen goose crab octopus spider ant lizard swan"
).split()
SHE = "girl princess queen mermaid witch grandmother".split()
HE = "boy prince king grandfather".split()
PEOPLE = (
    "knight wizard pirate baker fisherman farmer teacher ghost giant elf unicorn astronaut robot dragon gardener "
    "clockmaker painter sailor shepherd tailor doctor musician librarian miller inventor fairy snowman cook explorer "
    "detective programmer student soldier monster"
).split()
GIRLS = (
    "Anna Mia Lena Rosa Ella Nora Lily Ivy Ada Clara Maya Zoe Eva Ruby Hazel Emma Alice Luna Sara Tilly Iris Juno "
    "Nina Olga Pia Willa Bella Dora Greta Hanna Ida June Kira Lotte Mina Nell Poppy Tess Vera Wren Sofia Daisy"
).split()
BOYS = (
    "Tom Ben Max Leo Finn Sam Oskar Hugo Theo Felix Jack Noah Milo Otto Paul Rudi Karl Jonas Emil Anton Bruno Casper "
    "Dan Erik Fred Gus Henry Ivan Jim Kai Luke Marco Ned Oliver Pip Robin Simon Tim Victor Will Arlo Barnaby"
).split()
PLACES = (
    "in a quiet village|in a deep forest|in a small town by the sea|in a house on a hill|in a valley full of flowers|in an old "
    "castle|on a tiny island|in a busy city|on a farm at the edge of the world|in a lighthouse|in a hollow oak tree|on a snowy "
    "mountain|in a windmill near the river|in a garden behind a tall wall|in a library with a thousand books|on a boat on a wide "
    "lake|in a cave by the beach|in a village under the moon|on a green meadow|in a crooked little house|on a space station|in a "
    "desert town"
).split("|")
IRREGULAR = {
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "wolf": "wolves",
    "mouse": "mice",
    "goose": "geese",
    "elf": "elves",
    "butterfly": "butterflies",
    "octopus": "octopuses",
    "fox": "foxes",
    "pony": "ponies",
    "fairy": "fairies",
    "witch": "witches",
    "princess": "princesses",
    "ostrich": "ostriches",
    "snowman": "snowmen",
}
OBJECTS = (
    "golden key|red kite|silver bell|blue lantern|old map|wooden flute|shiny stone|warm scarf|little boat|magic book|"
    "glass marble|paper crown|green umbrella|tiny clock|brass compass|velvet hat|small drum|white feather|music box|"
    "round mirror|wooden sword|yellow balloon|crystal ball|leather bag|copper teapot"
).split("|")
FOODS = (
    "apples|honey cake|fresh bread|soup|berries|pancakes|cheese|cookies|nuts|plum jam|carrots|an apple pie|hot chocolate"
).split("|")
TRAITS = (
    "brave curious kind shy clever cheerful gentle lonely sleepy grumpy patient tiny quiet proud careful friendly "
    "young old hungry dreamy stubborn happy honest busy"
).split()
SKILLS = "swim|sing|dance|fly a kite|read|paint|play the flute|skate|bake bread|whistle|juggle|ride a bicycle".split(
    "|"
)
THEMES = (
    "friendship|courage|kindness|a journey|the sea|the moon|the stars|winter|the forest|love|magic|a secret|a contest|"
    "space|the rain|home|a dream|adventure|hope|music|a lost toy|a storm|a treasure|school|a birthday"
).split("|")


@dataclass
class Story:
    """A finished story, with what a follow-up question may ask about."""

    text: str
    slots: dict[str, str]


def _character(kind: str, rng: random.Random, prefix: str, taken: str = "") -> dict[str, str]:
    """Name a character and choose its pronouns; slot names start with ``prefix``."""
    female = kind in SHE or (kind not in HE and rng.random() < 0.5)
    names = [name for name in (GIRLS if female else BOYS) if name != taken]
    he, his, him = ("she", "her", "her") if female else ("he", "his", "him")
    slots = {"name": rng.choice(names), "kind": kind, "he": he, "his": his, "him": him, "He": capital(he)}
    return {prefix + key: value for key, value in slots.items()}


def any_kind(rng: random.Random) -> str:
    """Choose a kind of character, animals about half of the time."""
    return rng.choice(rng.choice((ANIMALS, ANIMALS, PEOPLE, SHE + HE)))


def make_story(
    rng: random.Random,
    hero: str | None = None,
    friend: str | None = None,
    item: str | None = None,
    place: str | None = None,
    short: bool = False,
) -> Story:
    """Write one story; whatever the caller leaves open is drawn at random."""
    slots = _character(hero or any_kind(rng), rng, "")
    slots |= _character(friend or any_kind(rng), rng, "f_", slots["name"])
    slots |= {
        "place": place or rng.choice(PLACES),
        "object": item or rng.choice(OBJECTS),
        "food": rng.choice(FOODS),
        "trait": rng.choice(TRAITS),
        "f_trait": rng.choice(TRAITS),
        "skill": rng.choice(SKILLS),
    }
    plots = [plot for plot in PLOTS if not item or "{object}" in plot[0]]
    plot = rng.choice(plots)
    beats = [plot[0], *(plot[2:] if short else plot[1:])]
    parts = [expand(rng.choice(OPENINGS), rng, slots)]
    parts += [expand(beat, rng, slots) for beat in beats]
    if not short or rng.random() < 0.5:
        parts.append(expand(rng.choice(ENDINGS), rng, slots))
    return Story(" ".join(capital(part) for part in parts), slots)


_ASK_ANY = (
    "[tell me|can you tell me|please tell me|could you tell me|write me|write|make up|i want to hear|give me|i want|"
    "i would like] a [|short |little |nice |funny |bedtime |new |good |fairy ]story[|!|.|?]",
    "[tell|read] [me|us] a [story|tale|fairy tale|short tale][|.|, please.]",
    "[story|a story|story time|a story please][|!|.|?]",
    "do you know [a|any] [story|stories|good stories]?",
    "[can|could] you [tell|write|make up] [stories|a story][| for me]?",
    "write a [short |little |]story [in a few sentences|in one paragraph|for children|for my daughter|for my son].",
    "once upon a time[|...]",
)
_ASK_ABOUT = (
    "[tell me|can you tell me|please tell me|write|write me|make up|give me|i want] a [|short |little |nice |funny |"
    "bedtime |long ]story [about|with|of] {about}[|.|!|?]",
    "[a story about|story about|a tale about|tell a story about|tell us about] {about}[|.|, please.]",
    "do you know a story about {about}?",
)
_LEAD = (
    "",
    "",
    "",
    "[Of course!|Sure!|Gladly!|Here is one.|Here is a story.|I would love to.|With pleasure.|All right.] ",
)
_ANOTHER = (
    "[another one|another|one more|tell me another|tell me another one|another story|one more story][|!|.|, please.|?]",
    "[again|more|more please|a different one|can i have another one?|tell me a different story]",
)
_NEXT = (
    "[what happened next?|and then?|what happens next?|and then what happened?|go on|continue|then what?|keep going|"
    "tell me more|what happened after that?|please continue|more]"
)
_THANKS = (
    "[That was|This is|That is] a [nice|lovely|good|great|beautiful|cute|funny] story[!|.]",
    "[I like|I love|I liked|I loved] [it|that|that story|your story][!|.]",
    "[nice|lovely|great|cute|aww|wow|cool] [story|tale][!|.|]",
)
_WELCOME = (
    "[Thank you!|I am glad you liked it.|That makes me happy.|Thanks!|I am happy you liked it!] [Shall I tell you another "
    "one?|Would you like another one?|Just ask if you want another one.|I know many more.|Stories are my favourite thing.]",
)


def _about(rng: random.Random) -> tuple[str, Story]:
    """Choose what a story is asked to be about, and write it."""
    case = rng.random()
    if case < 0.5:
        kind = any_kind(rng)
        story = make_story(rng, hero=kind)
        words = [
            f"a {kind}",
            f"a {kind}",
            f"a {story.slots['trait']} {kind}",
            f"the {kind}",
            IRREGULAR.get(kind, kind + "s"),
        ]
        return expand(rng.choice(words), rng), story
    if case < 0.65:
        kind = any_kind(rng)
        other = rng.choice([name for name in (*ANIMALS, *PEOPLE) if name != kind])
        return expand(f"a {kind} and a {other}", rng), make_story(rng, hero=kind, friend=other)
    if case < 0.75:
        item = rng.choice(OBJECTS)
        return expand(f"a {item}", rng), make_story(rng, item=item)
    if case < 0.82:
        place = rng.choice(PLACES)
        return place.split(" ", 1)[1], make_story(rng, place=place)
    if case < 0.92:
        story = make_story(rng)
        return rng.choice((story.slots["name"], f"{story.slots['name']} the {story.slots['kind']}")), story
    return rng.choice(THEMES), make_story(rng)


def _question(story: Story, rng: random.Random) -> Turn:
    """Ask about a detail of the story that was just told."""
    slots = story.slots
    case = rng.randrange(3)
    if case == 0:
        user = "[[what was|what is] the {kind}'s name?|what was the name of the {kind}?|who was the story about?]"
        answer = "[The {kind}'s name was {name}.|The {kind} was called {name}.|The story was about {name} the {kind}.]"
        return Turn(expand(user, rng, slots), expand(answer, rng, slots))
    if case == 1:
        return Turn(expand("where did {name} live?", rng, slots), expand("{name} lived {place}.", rng, slots))
    user = expand("[what|what kind of animal|who] was {name}?", rng, slots)
    return Turn(user, expand("{name} was a {trait} {kind}.", rng, slots))


def story_turns(rng: random.Random) -> list[Turn]:
    """Ask for a story; sometimes ask on about it, or for another."""
    if rng.random() < 0.5:
        user, story = sentence(_ASK_ANY, rng), make_story(rng, short=rng.random() < 0.3)
    else:
        about, story = _about(rng)
        user = sentence(_ASK_ABOUT, rng, {"about": about})
    turns = [Turn(user, expand(rng.choice(_LEAD), rng) + story.text)]
    case = rng.random()
    if case < 0.15:
        turns.append(_question(story, rng))
    elif case < 0.30:
        turns.append(Turn(expand(_NEXT, rng), sequel(story, rng)))
    elif case < 0.42:
        turns.append(Turn(sentence(_ANOTHER, rng), expand(rng.choice(_LEAD), rng) + make_story(rng).text))
    elif case < 0.52:
        turns.append(Turn(sentence(_THANKS, rng), sentence(_WELCOME, rng)))
    return turns


def sequel(story: Story, rng: random.Random) -> str:
    """Continue a story with the same characters."""
    return " ".join(sentence((beat,), rng, story.slots) for beat in rng.choice(SEQUELS))


def story_text(rng: random.Random) -> str:
    """A story as plain text, for completions without a chat."""
    story = make_story(rng, short=rng.random() < 0.2)
    return story.text + (" " + sequel(story, rng) if rng.random() < 0.3 else "")
