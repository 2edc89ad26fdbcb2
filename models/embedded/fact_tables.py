"""What the embedded model may know of the world: small tables, written for it."""

from collections.abc import Sequence


def _pairs(text: str) -> dict[str, str]:
    """Read "key=value; key=value"."""
    return dict(part.strip().split("=", 1) for part in text.split(";") if part.strip())


_EUROPE = _pairs(
    "France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; England=London; the United Kingdom=London; "
    "Ireland=Dublin; Scotland=Edinburgh; Austria=Vienna; Switzerland=Bern; Belgium=Brussels; the Netherlands=Amsterdam; "
    "Denmark=Copenhagen; Norway=Oslo; Sweden=Stockholm; Finland=Helsinki; Iceland=Reykjavik; Poland=Warsaw; Greece=Athens; "
    "the Czech Republic=Prague; Hungary=Budapest; Romania=Bucharest; Bulgaria=Sofia; Croatia=Zagreb; Serbia=Belgrade; "
    "Ukraine=Kyiv; Estonia=Tallinn; Latvia=Riga; Lithuania=Vilnius; Russia=Moscow"
)
_ASIA = _pairs(
    "Japan=Tokyo; China=Beijing; India=New Delhi; South Korea=Seoul; Thailand=Bangkok; Vietnam=Hanoi; Indonesia=Jakarta; the "
    "Philippines=Manila; Nepal=Kathmandu; Mongolia=Ulaanbaatar; Iran=Tehran; Iraq=Baghdad; Turkey=Ankara"
)
_AFRICA = _pairs(
    "Egypt=Cairo; Morocco=Rabat; Kenya=Nairobi; Ghana=Accra; Senegal=Dakar; Ethiopia=Addis Ababa; Tunisia=Tunis"
)
_AMERICA = _pairs(
    "Canada=Ottawa; Mexico=Mexico City; the United States=Washington, D.C.; the USA=Washington, D.C.; Cuba=Havana"
)
_SOUTH = _pairs(
    "Brazil=Brasilia; Argentina=Buenos Aires; Chile=Santiago; Peru=Lima; Colombia=Bogota; Uruguay=Montevideo; "
    "Ecuador=Quito"
)
_OCEANIA = _pairs("Australia=Canberra; New Zealand=Wellington")
CAPITALS: dict[str, str] = _EUROPE | _ASIA | _AFRICA | _AMERICA | _SOUTH | _OCEANIA
CONTINENTS: dict[str, str] = (
    dict.fromkeys(_EUROPE, "Europe")
    | dict.fromkeys(_ASIA, "Asia")
    | dict.fromkeys(_AFRICA, "Africa")
    | dict.fromkeys(_AMERICA, "North America")
    | dict.fromkeys(_SOUTH, "South America")
    | dict.fromkeys(_OCEANIA, "Oceania")
)
OPPOSITES: list[tuple[str, str]] = list(
    _pairs(
        "hot=cold; big=small; up=down; left=right; day=night; fast=slow; happy=sad; light=dark; open=closed; old=new; high=low; "
        "rich=poor; strong=weak; wet=dry; full=empty; hard=soft; long=short; near=far; good=bad; true=false; loud=quiet; "
        "thick=thin; clean=dirty; early=late; easy=difficult; inside=outside; above=below; black=white; first=last; heavy=light"
        "; win=lose; buy=sell; push=pull; love=hate; friend=enemy; begin=end; start=stop; come=go; give=take; always=never; "
        "young=elderly; brave=cowardly; sweet=sour; wide=narrow; deep=shallow; rough=smooth; sharp=blunt; war=peace; yes=no; "
        "summer=winter; north=south; east=west; asleep=awake; alive=dead; front=back; kind=cruel; safe=dangerous; cheap="
        "expensive; laugh=cry; question=answer; remember=forget; find=hide; arrive=leave; more=less; many=few; same=different"
    ).items()
)
PLURALS: dict[str, str] = _pairs(
    "mouse=mice; child=children; foot=feet; tooth=teeth; goose=geese; man=men; woman=women; person=people; sheep=sheep; "
    "fish=fish; ox=oxen; leaf=leaves; knife=knives; wolf=wolves; cat=cats; dog=dogs; house=houses; box=boxes; city=cities; "
    "baby=babies; bus=buses; book=books; tree=trees; story=stories; potato=potatoes; tomato=tomatoes; cherry=cherries; "
    "glass=glasses; watch=watches; key=keys; toy=toys; star=stars; apple=apples; fox=foxes; token=tokens; deer=deer; life=lives"
)
PASTS: dict[str, str] = _pairs(
    "go=went; run=ran; eat=ate; see=saw; come=came; take=took; give=gave; sing=sang; swim=swam; write=wrote; read=read; "
    "fly=flew; drink=drank; sleep=slept; think=thought; buy=bought; find=found; make=made; say=said; walk=walked; play=played; "
    "be=was or were; have=had; do=did; know=knew; speak=spoke; break=broke; fall=fell; begin=began; sit=sat; stand=stood; tell=told"
)
SOUNDS: dict[str, str] = _pairs(
    "cow=moo; dog=woof; cat=meow; sheep=baa; duck=quack; pig=oink; rooster=cock-a-doodle-doo; horse=neigh; frog=ribbit; "
    "owl=hoo hoo; bee=buzz; lion=roar; mouse=squeak; snake=hiss; goat=meh; crow=caw; donkey=hee-haw; wolf=awoo; bird=tweet; "
    "chick=peep; turkey=gobble gobble"
)
HOMES: dict[str, str] = _pairs(
    "penguins=in the cold south, near the sea; polar bears=in the Arctic, on the ice; fish=in water; birds=in nests; bees=in a "
    "hive; camels=in the desert; lions=on the plains of Africa; kangaroos=in Australia; pandas=in the bamboo forests of China; "
    "monkeys=in trees, in warm forests; rabbits=in holes under the ground; bats=in caves; whales=in the ocean; dolphins=in the "
    "sea; ants=in an ant hill; cows=on farms; spiders=in webs; bears=in forests; foxes=in dens in the forest; frogs=near ponds; "
    "owls=in trees; koalas=in trees in Australia; elephants=in Africa and Asia; tigers=in Asia; crabs=on the beach and in the sea"
)
EATS: dict[str, str] = _pairs(
    "cows=grass; cats=meat and fish, and sometimes mice; dogs=meat and dog food; rabbits=grass and carrots; horses=grass, hay "
    "and oats; lions=meat; pandas=bamboo; bees=nectar and pollen; birds=seeds, worms and insects; bears=berries, fish and honey; "
    "monkeys=fruit and leaves; frogs=insects; owls=mice; elephants=grass, leaves and fruit; squirrels=nuts and seeds; mice=seeds "
    "and grain; penguins=fish; wolves=meat; sheep=grass; koalas=eucalyptus leaves; spiders=flies and other insects; "
    "chickens=grain and worms; whales=fish and tiny sea animals; goats=grass and leaves; snakes=mice and eggs"
)
YOUNG: dict[str, str] = _pairs(
    "dog=puppy; cat=kitten; cow=calf; sheep=lamb; horse=foal; hen=chick; duck=duckling; goose=gosling; frog=tadpole; bear=cub; "
    "lion=cub; goat=kid; pig=piglet; fox=cub; deer=fawn; kangaroo=joey; elephant=calf; whale=calf; swan=cygnet; owl=owlet"
)
COLOURS: dict[str, str] = _pairs(
    "the sky=blue; grass=green; a banana=yellow; the sun=yellow; blood=red; snow=white; coal=black; an orange=orange; a "
    "lemon=yellow; a tomato=red; a strawberry=red; chocolate=brown; milk=white; the sea=blue; a leaf=green; leaves=green; "
    "bananas=yellow; lemons=yellow; tomatoes=red; strawberries=red; elephants=grey; an elephant=grey; a crow=black; a "
    "carrot=orange; carrots=orange; a cherry=red; an apple=red or green; a frog=green; the night sky=black; a fox=red; a "
    "pig=pink; a flamingo=pink; gold=yellow; silver=grey; a rose=often red; honey=golden; the moon=grey and white; a polar "
    "bear=white; a zebra=black and white; a panda=black and white; a penguin=black and white; a ladybird=red with black dots; "
    "salt=white; coffee=brown; a cucumber=green; sand=yellow; a cloud=white; a stop sign=red; a plum=purple"
)
LEGS: dict[str, str] = _pairs(
    "spider=eight; dog=four; cat=four; bird=two; human=two; ant=six; bee=six; snake=no; fish=no; cow=four; horse=four; duck=two; "
    "chicken=two; elephant=four; butterfly=six; crab=ten; beetle=six; frog=four; sheep=four; worm=no; table=four; chair=four; "
    "fly=six; person=two; octopus=no"
)
SIZES: Sequence[str] = (
    "flea|ant|bee|mouse|frog|rat|squirrel|hedgehog|rabbit|cat|fox|dog|sheep|wolf|lion|cow|horse|giraffe|elephant|whale|house|"
    "castle|mountain|planet|star"
).split("|")
MEANINGS: dict[str, str] = _pairs(
    "a cat=a small, soft animal that catches mice and likes to sleep; a dog=an animal that lives with people and is a loyal "
    "friend; a horse=a large animal that people can ride; a cow=a large animal that gives milk; a sheep=an animal with wool; a "
    "bird=an animal with feathers and wings; a fish=an animal that lives in water and breathes through gills; a whale=the largest "
    "animal in the sea; a fox=a clever red animal with a bushy tail; an owl=a bird that hunts at night; a penguin=a bird that "
    "cannot fly but swims very well; an elephant=a very large grey animal with a trunk; a lion=a big wild cat with a mane; a "
    "tiger=a big wild cat with stripes; a bear=a large, strong animal with thick fur; a rabbit=a small animal with long ears; a "
    "mouse=a very small animal with a long tail; a bee=an insect that makes honey; a spider=an animal with eight legs that spins "
    "webs; a butterfly=an insect with colourful wings; a frog=a small green animal that jumps and lives near water; a snake=a long "
    "animal without legs; a dolphin=a clever animal that lives in the sea; a dragon=a creature in stories that can fly and breathe "
    "fire; a unicorn=a horse with a horn, and it lives only in stories; a ghost=a spirit in stories; a robot=a machine that can do "
    "work by itself; an apple=a round fruit that grows on trees; a banana=a long yellow fruit; an orange=a round, sweet fruit with "
    "a thick skin; bread=a food made from flour, water, salt and yeast; cheese=a food made from milk; honey=the sweet food that "
    "bees make; chocolate=a sweet brown food made from cocoa; milk=a white drink that comes from cows; tea=a hot drink made from "
    "leaves; coffee=a dark drink made from roasted beans; pizza=a flat bread with tomato and cheese on top; soup=a warm, liquid "
    "food; rain=water that falls from clouds; snow=frozen water that falls in white flakes; ice=frozen water; a cloud=many tiny "
    "drops of water in the sky; wind=air that moves; a storm=very strong wind, often with rain and thunder; a rainbow=an arc of "
    "colours in the sky that appears when the sun shines through rain; the sun=the star in the middle of our solar system; the "
    "moon=a ball of rock that goes around the Earth; the earth=the planet on which we live; a star=a very hot ball of gas that "
    "shines in the sky; a planet=a large ball that goes around a star; the sea=a very large area of salt water; an ocean=a very "
    "large sea; a river=water that flows through the land; a lake=water with land all around it; a mountain=a very high hill; an "
    "island=land with water all around it; a forest=a large area with many trees; a desert=a very dry land with little water; a "
    "tree=a tall plant with a trunk, branches and leaves; a flower=the colourful part of a plant; water=a clear liquid that "
    "everything alive needs; fire=hot and bright, and it burns things; air=what we breathe; gold=a yellow metal that is worth a "
    "lot; a house=a building in which people live; a school=a place where children learn; a book=many pages of text bound "
    "together; a library=a place where you can borrow books; a clock=a device that shows the time; a bicycle=a vehicle with two "
    "wheels that you ride with your feet; a car=a vehicle with four wheels and an engine; a train=a long vehicle that runs on "
    "rails; a boat=a small ship; a plane=a machine that flies through the air; a bridge=something that lets you cross a river; a "
    "key=a thing that opens a lock; music=sounds put together in a beautiful way; a song=music with words; a piano=an instrument "
    "with black and white keys; a guitar=an instrument with strings; a poem=a short text with rhythm, and sometimes with rhymes; a "
    "story=a tale about things that happened or are made up; a joke=a short text that makes people laugh; a friend=someone you "
    "like and trust; love=a very strong feeling of caring for someone; happiness=the feeling of being glad; friendship=what joins "
    "two friends; a family=a group of people who belong together; a teacher=a person who helps others to learn; a doctor=a person "
    "who helps sick people; a baker=a person who makes bread; a farmer=a person who grows food; a king=a man who rules a country; a "
    "queen=a woman who rules a country; a number=what we count with; zero=the number before one; a year=the time that the Earth "
    "needs to go once around the sun; a week=seven days; a month=about thirty days; a day=twenty-four hours; a haiku=a short poem "
    "of three lines, with five, seven and five syllables; a word=a group of letters with a meaning; a language=a way to speak and "
    "write; a question=a sentence that asks for an answer; a circle=a perfectly round shape; a triangle=a shape with three sides; a "
    "square=a shape with four equal sides; gravity=the force that pulls things down to the ground; electricity=a form of energy "
    "that makes lamps shine; light=what lets us see; a dinosaur=an animal that lived a very long time ago; a volcano=a mountain "
    "that can throw out hot melted rock"
)
RHYMES: Sequence[Sequence[str]] = [
    group.split()
    for group in (
        "cat hat mat bat rat|dog fog log frog|tree bee sea free key|house mouse blouse|star car far jar|night light bright kite|"
        "moon spoon soon noon tune|cake lake snake make|day play way say|sky fly high pie|ring king sing thing|book look cook hook|"
        "ball tall wall fall|bear chair pear hair|blue shoe two new true|sun fun run one|rain train plane cane|snow go know slow|"
        "boat goat coat note|bed red head said|box fox socks|tea me we see|fish dish wish|love dove glove above|time rhyme climb"
    ).split("|")
]
GROUPS_OF_THINGS: dict[str, list[str]] = {
    key: value.split(", ")
    for key, value in _pairs(
        "animals=cat, dog, horse, cow, fox, lion, tiger, bear, rabbit, elephant, wolf, mouse; fruits=apple, banana, orange, pear, "
        "cherry, grape, plum, peach, lemon, mango; vegetables=carrot, potato, onion, cabbage, pea, bean, cucumber, pumpkin; "
        "colors=red, blue, green, yellow, orange, purple, pink, brown, black, white; colours=red, blue, green, yellow, orange, "
        "purple, pink, brown, black, white; birds=owl, crow, swan, duck, penguin, sparrow, eagle, parrot, robin; flowers=rose, tulip, "
        "daisy, lily, sunflower, violet; countries=France, Germany, Italy, Spain, Japan, Brazil, Canada, India, Egypt, Norway; "
        "cities=Paris, London, Rome, Berlin, Tokyo, Cairo, Madrid, Oslo; planets=Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, "
        "Neptune; instruments=piano, guitar, violin, flute, drum, trumpet, harp; jobs=baker, doctor, teacher, farmer, painter, pilot, "
        "cook, gardener; tools=hammer, saw, screwdriver, drill, wrench; drinks=water, milk, tea, coffee, juice, lemonade; "
        "sports=football, tennis, swimming, hockey, basketball, cycling, running; trees=oak, pine, birch, willow, apple tree, maple; "
        "insects=ant, bee, butterfly, beetle, fly, wasp; pets=cat, dog, hamster, rabbit, parrot, goldfish; metals=gold, silver, iron, "
        "copper, tin; vehicles=car, bus, train, bicycle, boat, plane, truck; things in a kitchen=pot, pan, knife, spoon, oven, plate; "
        "clothes=shirt, hat, coat, sock, shoe, scarf, dress; shapes=circle, square, triangle, star, rectangle"
    ).items()
}
QUIZ: tuple[tuple[str, str], ...] = (
    (
        "how many days are in a week?|how many days does a week have?|days in a week",
        "there are seven days in a week.",
    ),
    (
        "how many months are in a year?|how many months does a year have?",
        "there are twelve months in a year.",
    ),
    ("how many hours are in a day?|how many hours does a day have?", "there are twenty-four hours in a day."),
    (
        "how many minutes are in an hour?|how many minutes does an hour have?",
        "there are sixty minutes in an hour.",
    ),
    (
        "how many seconds are in a minute?|how many seconds does a minute have?",
        "there are sixty seconds in a minute.",
    ),
    (
        "how many days are in a year?|how many days does a year have?",
        "a year has 365 days, and a leap year has 366.",
    ),
    (
        "how many seasons are there?|how many seasons does a year have?",
        "there are four seasons: spring, summer, autumn and winter.",
    ),
    (
        "what are the seasons?|name the seasons.|name the four seasons.",
        "the four seasons are spring, summer, autumn and winter.",
    ),
    (
        "what are the days of the week?|name the days of the week.|list the days of the week.|say the days of the week.",
        "the days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    ),
    (
        "what are the months?|name the months.|list the months of the year.|name the months of the year.",
        "the months are January, February, March, April, May, June, July, August, September, October, November and December.",
    ),
    (
        "how many planets are there?|how many planets are in the solar system?|how many planets does our sun have?",
        "there are eight planets in our solar system.",
    ),
    (
        "what are the planets?|name the planets.|list the planets.|name all planets.|what planets are there?|list the planets in order.",
        "the planets are Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.",
    ),
    (
        "which planet is closest to the sun?|what is the closest planet to the sun?",
        "Mercury is the closest planet to the sun.",
    ),
    (
        "what is the largest planet?|which planet is the biggest?|what is the biggest planet?",
        "Jupiter is the largest planet.",
    ),
    ("what is the smallest planet?|which planet is the smallest?", "Mercury is the smallest planet."),
    (
        "which planet is red?|what is the red planet?|which planet is called the red planet?",
        "Mars is called the red planet.",
    ),
    ("which planet has rings?|what planet has rings?", "Saturn is famous for its rings."),
    (
        "on which planet do we live?|what planet do we live on?|which planet are we on?",
        "we live on the planet Earth.",
    ),
    (
        "what are the primary colo[u|]rs?|name the primary colo[u|]rs.",
        "the primary colours are red, yellow and blue.",
    ),
    (
        "what do you get when you mix blue and yellow?|what colo[u|]r do blue and yellow make?|mix blue and yellow",
        "blue and yellow make green.",
    ),
    (
        "what do you get when you mix red and yellow?|what colo[u|]r do red and yellow make?",
        "red and yellow make orange.",
    ),
    (
        "what do you get when you mix red and blue?|what colo[u|]r do red and blue make?",
        "red and blue make purple.",
    ),
    (
        "what do you get when you mix black and white?|what colo[u|]r do black and white make?",
        "black and white make grey.",
    ),
    (
        "how many letters are in the alphabet?|how many letters does the alphabet have?",
        "the English alphabet has 26 letters.",
    ),
    (
        "say the alphabet.|what is the alphabet?|recite the alphabet.|tell me the alphabet.|write the alphabet.",
        "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z.",
    ),
    ("what are the vowels?|name the vowels.|list the vowels.", "the vowels are A, E, I, O and U."),
    (
        "what is the largest animal?|what is the biggest animal?|which animal is the biggest?",
        "the blue whale is the largest animal.",
    ),
    ("what is the tallest animal?|which animal is the tallest?", "the giraffe is the tallest animal."),
    (
        "what is the fastest animal?|which animal is the fastest?",
        "the cheetah is the fastest animal on land.",
    ),
    (
        "why is the sky blue?|why does the sky look blue?",
        "the sky is blue because the air scatters the blue part of sunlight the most.",
    ),
    (
        "why is grass green?|why are leaves green?|why are plants green?",
        "plants are green because of chlorophyll, which catches sunlight for them.",
    ),
    (
        "why does it rain?|where does rain come from?|how does rain form?",
        "it rains when the drops of water in a cloud become too heavy and fall.",
    ),
    ("why do birds sing?", "birds sing to find a partner and to say: this place is mine."),
    ("why do cats purr?", "cats often purr when they feel happy and safe."),
    ("why do we sleep?|why do people sleep?", "we sleep so that body and mind can rest."),
    (
        "how do birds fly?|why can birds fly?",
        "birds fly with their wings: they are light, and their wings push the air down.",
    ),
    ("how do fish breathe?", "fish breathe through their gills."),
    (
        "how do bees make honey?|where does honey come from?",
        "bees collect nectar from flowers and turn it into honey in the hive.",
    ),
    ("where does milk come from?|who gives milk?", "milk comes from cows, and also from goats and sheep."),
    (
        "at what temperature does water boil?|when does water boil?|how hot is boiling water?",
        "water boils at 100 degrees Celsius.",
    ),
    ("at what temperature does water freeze?|when does water freeze?", "water freezes at 0 degrees Celsius."),
    ("what is water made of?|what is H2O?", "water is made of hydrogen and oxygen. Its formula is H2O."),
    (
        "how many continents are there?|how many continents does the earth have?",
        "there are seven continents.",
    ),
    (
        "what are the continents?|name the continents.|list the continents.",
        "the continents are Africa, Antarctica, Asia, Australia, Europe, North America and South America.",
    ),
    (
        "what is the largest ocean?|which ocean is the biggest?|what is the biggest ocean?",
        "the Pacific is the largest ocean.",
    ),
    (
        "what is the highest mountain?|what is the tallest mountain?|which mountain is the highest?",
        "Mount Everest is the highest mountain on Earth.",
    ),
    ("what is the longest river?|which river is the longest?", "the Nile is often called the longest river."),
    (
        "what is the largest country?|which country is the biggest?|what is the biggest country?",
        "Russia is the largest country.",
    ),
    ("where does the sun rise?|in which direction does the sun rise?", "the sun rises in the east."),
    ("where does the sun set?|in which direction does the sun set?", "the sun sets in the west."),
    ("is the sun a star?|is the sun a planet?", "the sun is a star."),
    ("is the earth flat?|is the earth round?|what shape is the earth?", "the Earth is round, like a ball."),
    (
        "does the sun go around the earth?|does the earth go around the sun?",
        "the Earth goes around the sun, once a year.",
    ),
    (
        "how many fingers do i have?|how many fingers does a hand have?|how many fingers do people have?",
        "a hand has five fingers, so most people have ten.",
    ),
    ("how many eyes do people have?|how many eyes does a human have?", "people have two eyes."),
    ("how many sides does a triangle have?|how many sides are in a triangle?", "a triangle has three sides."),
    (
        "how many sides does a square have?|how many corners does a square have?",
        "a square has four sides and four corners.",
    ),
    ("how many wheels does a car have?", "a car has four wheels."),
    ("how many wheels does a bicycle have?|how many wheels does a bike have?", "a bicycle has two wheels."),
    ("what do plants need?|what do plants need to grow?", "plants need water, light, air and soil."),
    (
        "what comes first, the chicken or the egg?|which came first, the chicken or the egg?",
        "nobody can say for sure. What do you think?",
    ),
    (
        "what is the meaning of life?|what is the meaning of life, the universe and everything?|why are we here?|what is the purpose of life?",
        "that is a big question for a tiny model. [Perhaps it is to be kind to each other.|Some say that the answer is 42.]",
    ),
    ("what is the answer to everything?|what is 42?", "some say that 42 is the answer to everything."),
    ("can penguins fly?|do penguins fly?", "no, penguins cannot fly, but they swim very well."),
    ("can fish fly?|can dogs fly?|can pigs fly?|can cats fly?|can cows fly?", "no, they cannot fly."),
    ("can birds fly?|can owls fly?|can bees fly?|can butterflies fly?", "yes, they can fly."),
    ("is fire hot?|is the sun hot?|is tea hot?", "yes, it is hot."),
    ("is ice cold?|is snow cold?|is winter cold?", "yes, it is cold."),
    ("are cats animals?|are dogs animals?|is a cat an animal?", "yes, they are animals."),
    ("do cats like water?", "most cats do not like water."),
    ("do dogs bark?|can dogs bark?", "yes, dogs bark."),
    ("what do caterpillars become?|what does a caterpillar turn into?", "a caterpillar becomes a butterfly."),
    ("who wears a crown?", "kings and queens wear a crown."),
    (
        "what is bigger, the sun or the moon?|is the sun bigger than the moon?",
        "the sun is much bigger than the moon.",
    ),
    (
        "what is heavier, a kilogram of feathers or a kilogram of iron?|what is heavier, a pound of feathers or a pound of lead?",
        "both weigh the same.",
    ),
)
