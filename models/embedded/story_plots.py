"""Openings, plots, endings and sequels of the stories, as templates.

A plot is a sequence of beats. The first beat states the wish or the trouble; a short story leaves out the second.
"""

OPENINGS: tuple[str, ...] = (
    "Once upon a time, there was a {trait} {kind} named {name} who lived {place}.",
    "Once upon a time, a {trait} {kind} called {name} lived {place}.",
    "Once upon a time, {place}, there lived a {trait} {kind} named {name}.",
    "Long ago, [there was|there lived] a {trait} {kind} named {name}. {He} lived {place}.",
    "{place}, there lived a {trait} {kind}. The {kind}'s name was {name}.",
    "There was once a {trait} {kind} named {name} who lived {place}.",
    "{name} was a {trait} {kind} who lived {place}.",
)

PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "One [morning|evening|day], {name} [could not find|had lost] {his} {object}.",
        "{He} looked under the bed, behind the door and [in the garden|on the roof|in every pot|in the old chest], but it "
        "was not there.",
        "[At last|Then|After a while] {name} met a {f_trait} {f_kind} named {f_name}. "
        '["I will help you look," said {f_name}.|{f_name} said, "Two can look better than one."]',
        "They [followed the footprints to the river|asked everyone they met|searched until the sun went down], and there, "
        "[under a leaf|in the tall grass|behind a stone|in a bird's nest], was the {object}.",
        '["Thank you," said {name}. "You found more than my {object}. You found a friend."|{name} was so happy that '
        "{he} danced.|{name} laughed and shared {his} {food} with {f_name}.]",
    ),
    (
        "{name} had [no friends|nobody to play with], and {he} [felt very alone|often sat by the window].",
        "Every day {he} [counted the clouds|talked to the trees|watched the others play] and wished for someone to talk to.",
        "One day, a {f_kind} named {f_name} [knocked at the door|came down the road|sat down beside {him}].",
        '"[May I share your {food}?|Do you want to play?|I am new here. Can you show me around?]" asked {f_name}.',
        "{name} [smiled|nodded|was so surprised that {he} could only nod]. They [played until it was dark|talked all "
        "afternoon|walked to the river and back], and from that day on they were [best friends|never alone again].",
    ),
    (
        "One night, a great storm came, and the wind [blew the roof away|broke the old bridge|put out every light].",
        "Everyone was afraid. Even {f_name} the {f_kind} hid under a table.",
        "But {name} took {his} {object} and [went out into the rain|climbed to the highest place|called to the others].",
        '"[Follow me|Do not be afraid|Stay close]!" {he} said, and [led everyone to a safe, dry cave|they held hands until '
        "morning|they followed {his} voice through the dark].",
        "When the sun came up, [the storm was over|the sky was clear and blue], and [they built everything again, "
        'together|everyone thanked the {trait} {kind}|{f_name} said, "You are the bravest {kind} I know."]',
    ),
    (
        "One day, {name} heard about a [contest|race|great contest] in the next town. The prize was a {object}.",
        '{f_name} the {f_kind} said, "You can\'t win. You are much too small." But {name} [only smiled|went anyway].',
        "On the day of the contest, {f_name} ran ahead and fell into a [deep hole|muddy ditch|cold stream].",
        "{name} could have gone on alone, but {he} stopped and [pulled {f_name} out|held out a hand|helped {f_him} up].",
        "They [crossed the line together|came last, side by side], and [the judges gave them both the {object}|they shared "
        "{food} and laughed about it|everyone cheered for them].",
    ),
    (
        "One [day|afternoon|rainy day], {name} found a {object} [in the attic|under a stone|at the bottom of the well] and, "
        "behind it, a small door.",
        "{He} had never seen the door before. It was [no bigger than a cat|painted green|warm to the touch].",
        "Behind the door was [a room full of stars|a garden where it was always summer|a long stair made of glass], and a "
        "{f_trait} {f_kind} named {f_name} was waiting there.",
        '"[I have waited a hundred years for a visitor|You are the first to find this place|Welcome]!" said {f_name}.',
        "They [drank tea and told each other everything|played until evening], and [{name} came back every day|when {name} "
        "went home, {he} kept the secret|the door was never locked again].",
    ),
    (
        "One spring, {name} planted a tiny seed, [and nobody knew what it would become|and waited].",
        '{He} watered it every morning. Days went by, and nothing happened. "Give up," said {f_name} the {f_kind}.',
        "But {name} was patient. [One morning|After many weeks|On the first day of summer], a green leaf came out of the "
        "ground.",
        "It grew and grew until it was [taller than the house|higher than the clouds|the tallest tree in the land], and it "
        "was full of [apples|golden flowers|singing birds|sweet pears].",
        '{name} [shared them with everyone|gave the first one to {f_name}], and {f_name} said, "[I am sorry. You were '
        'right to wait|Now I know what patience is|Next spring, I will help you]."',
    ),
    (
        "{name} wanted to learn to {skill}, but {he} was [too shy to ask|afraid to fail].",
        "{He} tried once and [fell down|made a mess|everyone laughed]. {He} tried twice, and it was [no better|even worse].",
        'Then {f_name}, a {f_trait} {f_kind}, said, "[Nobody is good at first|I failed a hundred times before I could do '
        'it|Let us try together]."',
        "So they practised every [morning|day|evening], a little at a time, and [slowly it became easier|{name} did not "
        "give up].",
        "At the end of the [summer|winter|year], {name} could {skill} better than anyone, and [{he} taught all the "
        "others|{f_name} was very proud|the whole town came to see it].",
    ),
    (
        "Every night, {name} heard a strange sound [from the cellar|outside the window|under the floor]. [Tap, tap, "
        "tap.|Hoo, hoo.|Knock, knock.]",
        "{He} pulled the blanket over {his} head and did not dare to move.",
        "On the third night, {he} took a candle and {his} {object}, and went to look. [The stairs creaked.|It was very "
        "dark.]",
        'In the corner sat a little {f_kind} named {f_name}. "[I am lost|I am cold|I am so hungry]," said {f_name}.',
        "{name} [laughed, because {he} had been so afraid of someone so small|was not afraid any more]. {He} gave {f_name} "
        "some {food}, and [after that the house was never too quiet|they both slept well that night].",
    ),
    (
        "One day, {name} decided to go [to the sea|to the moon|to the end of the rainbow|over the mountains], because {he} "
        "wanted to see [something new|how big the world is|where the sun sleeps].",
        "{He} packed {food} and a {object}, and left before sunrise.",
        'On the road, {he} met a {f_kind} named {f_name}, who said, "[May I come with you?|Take me along!|It is too far to '
        'go alone.]"',
        "They walked for [three days|seven days|a long, long time], through [rain and wind|dark woods and bright fields], "
        "and they [sang all the way|told each other stories].",
        "When they arrived, [it was even more beautiful than {name} had dreamed|they sat down and said nothing for a long "
        'time]. "[The best part was the road|I am glad you came|Now let us go home]," said {name}.',
    ),
    (
        "One winter, there was [nothing to eat|very little food] in the land, and {name} had only [some {food}|a little "
        "{food}] left.",
        "The snow was deep, and [the wind was cold|the nights were long].",
        "A {f_trait} {f_kind} named {f_name} came to the door and asked for help. {name} [thought for a moment|did not "
        "think twice] and gave {f_him} half.",
        "The next day, {f_name} came back with [a basket of bread|ten friends|a big pot of soup], and each of them had "
        "brought something.",
        "They ate together at one long table, and [nobody was hungry that winter|it was the best meal of the year].",
    ),
    (
        "One evening, {name} saw a star fall from the sky. It [landed in the pond|fell behind the hill|lay in the grass like "
        "a lamp].",
        '"[Please help me home|I fell because I was dreaming|I miss my sisters]," said the star in a small voice.',
        '{name} did not know how to reach the sky, so {he} asked {f_name}, a {f_trait} {f_kind}. "[We need a very long '
        'ladder|We need the wind|Use your {object}]," said {f_name}.',
        "Together they [built a ladder of branches|made a kite as big as a house|climbed the highest mountain], and the star "
        "went [up, up, up|home].",
        "Since then, one star [winks at {name} every night|shines brighter than all the others], and {name} always "
        "[waves back|says good night to it].",
    ),
    (
        "Next door lived a {f_kind} named {f_name}, who was [always in a bad mood|so grumpy that nobody dared to say hello].",
        '[When a ball fell into the yard, nobody dared to fetch it.|"Go away!" was all that {f_name} ever said.]',
        "One day, {name} made some {food} and [left it at the door|knocked at the door]. There was also a note: "
        '"[I hope you like it|Have a good day|From your neighbour]."',
        'The next morning, the plate was back, and on it lay a {object} with another note: "[Nobody ever brought me '
        'anything|Thank you. It was delicious|Come for tea]."',
        "From then on, {name} and {f_name} [had tea every Sunday|were good neighbours], and [the grumpy face was gone|they "
        "found out that they both loved music].",
    ),
    (
        "One day, {name} found an old {object} with a strange sign on it, [and it began to glow|and when {he} touched it, it "
        "spoke].",
        '"[I can grant you one wish|You may wish for one thing|One wish, and only one]," [said a voice|it said].',
        "{name} thought of gold and of a big house. Then {he} saw {f_name} the {f_kind}, who was [ill|very sad|crying by the "
        "road].",
        '"I wish that {f_name} will be [well|happy] again," said {name}, and [at once {f_name} smiled|the {object} shone '
        "like the sun].",
        "The {object} never spoke again, but {name} [never regretted it|had a friend, and that was better than gold].",
    ),
    (
        "The old bridge was broken, and nobody could cross the river to [the market|see their friends|go to school].",
        '"[Somebody should repair it|It is too much work]," said everyone, and they all went home.',
        "{name} began to work alone, [one plank a day|with an old hammer]. After a while, {f_name} the {f_kind} came and "
        "[carried wood|held the ladder|brought {food}].",
        "Then came another, and another, [until the whole village was there|and soon there was singing].",
        "In the evening the bridge was done, [and {name} was the first to cross it|and they hung a {object} over it so that "
        "all would remember].",
    ),
    (
        "One morning, {name} woke up and everything was [upside down|made of paper|blue].",
        "The cups were on the ceiling, and the cat [walked on the wall|was reading a newspaper].",
        '"[What a strange day|Do not worry, it happens|It is only Tuesday]," said {f_name}, a {f_trait} {f_kind}, who was '
        "passing by with a {object}.",
        "They ate {food} [from the ceiling|with their feet|under the rain of flowers] and laughed until [their bellies "
        "hurt|they fell over].",
        "The next morning, all was as before, but [a {object} still lay on the pillow|{name} could not stop smiling].",
    ),
)

ENDINGS: tuple[str, ...] = (
    "The end.",
    "And they lived happily ever after.",
    "And [that|this] is [the end of the story|how it ended].",
    "And if they are not asleep, they are [still laughing|dancing still].",
    "And {name} was very happy. The end.",
    "From that day on, [nobody was lonely {place}|{name} was never sad for long]. The end.",
    "And so {name} learned that [a friend is worth more than gold|it is good to be kind|small ones can do great things|"
    "it is never too late to try].",
)

SEQUELS: tuple[tuple[str, ...], ...] = (
    (
        "The next [day|morning], {name} woke up early and [ran|went] to see {f_name}.",
        '"[Let us do something new today|Shall we go to the river|I had a strange dream]," said {name}.',
        "So the two of them [packed some {food}|took the {object}] and walked until [the sun was high|they came to a hill].",
        "There they [built a little hut|watched the clouds|found a nest with three eggs], and [in the evening they came home, "
        "tired and happy|it became their secret place].",
    ),
    (
        "A year later, {name} and {f_name} were still friends.",
        "They [opened a small bakery|planted a garden|built a boat] together, and [everyone came to visit|it was the pride of "
        "the place].",
        "And in the evening, {name} often told the story of the {object} to [the little ones|anyone who would listen].",
    ),
    (
        "After that, {name} [slept for a whole day|went home and made soup].",
        'But then a letter came. It said: "[Come quickly|We need your help|You are invited to the king\'s party]."',
        "{name} called {f_name}, and [off they went|they left at once]. [But that is another story.|It was the beginning of a "
        "new adventure.]",
    ),
)
