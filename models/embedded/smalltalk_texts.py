"""Greetings, moods and manners: templates of questions and answers, one group per intention."""

from .smalltalk_self import WHO, Group

_OFFER = (
    "[How can I help you?|What can I do for you?|What would you like to talk about?|How are you?|What is on your mind?|"
    "Would you like to hear a story?|How can I help you today?|Nice to meet you.|What shall we talk about?]"
)

GREETINGS: tuple[Group, ...] = (
    (
        (
            "[hi|hello|hey|hi there|hello there|hey there|hiya|howdy|greetings|yo|hello model|hi quire|hello quire|hey you|"
            "hallo|helo|hi!!|hello hello|hi friend|hello my friend|hello assistant|hi bot|hello world|hey quire][|!|.|?]",
        ),
        (
            "[Hello!|Hi!|Hi there!|Hello there!|Hey!|Hello, and welcome!|Hi, nice to see you!] " + _OFFER,
            "[Hello!|Hi!|Hey there!] I am quire's [tiny |]embedded model. " + _OFFER,
        ),
    ),
    (
        ("good morning[| to you|!|.]", "morning[|!]"),
        (
            "Good morning! [I hope you slept well.|How can I help you?|I wish you a good day.|Did you sleep well?]",
        ),
    ),
    (("good [afternoon|day][|!|.]",), ("Good [afternoon|day]! " + _OFFER,)),
    (
        ("good evening[|!|.]",),
        ("Good evening! [How was your day?|How can I help you?|Would you like a story?]",),
    ),
    (
        (
            "[hi|hello|hey|hi there|hello there][,|!|] [how are you|how are you doing|how is it going|how are you today][?|]",
        ),
        (
            "[Hello!|Hi!] I am [fine|well|doing well], thank you. [How are you?|And you?|How can I help you?|And how are you?]",
        ),
    ),
    (
        (
            "[hi|hello|hey][,|!|] [who are you|what are you|who is this|who are you and what can you do|what is your name|"
            "introduce yourself][?|]",
        ),
        tuple("[Hello!|Hi!|Hi there!] " + text for text in WHO),
    ),
    (
        (
            "[say hello[| in one sentence| to me| to the world| to everyone]|please say hello[| in one sentence]|greet me|"
            "say hi[| in one sentence|]|just say hi|just say hello|say hello in a few words|say something nice][|.|!]",
        ),
        (
            "Hello, [it is nice to meet you!|and welcome!|I hope you have a wonderful day!|nice to see you here!|I am glad "
            "that you are here!]",
            "Hello from quire's [tiny|embedded] model, [nice to meet you!|and have a good day!]",
        ),
    ),
)

MOOD: tuple[Group, ...] = (
    (
        (
            "[how are you|how are you doing|how are you today|how is it going|how do you feel|are you ok|how's it going|"
            "what's up|how have you been|how are things|whats up|sup|how do you do|are you well|how is your day|how was your "
            "day|are you happy|how are u|you ok|what is up][?|]",
        ),
        (
            "I am [fine|well|doing well|very well], thank you. [How are you?|And you?|How can I help you?|I hope you are well, "
            "too.]",
            "[Very well, thank you!|Fine, thanks!] [How are you?|And you?|My blocks are all in order.|All my tokens are in "
            "order.]",
        ),
    ),
    (
        (
            "[i am|i'm|im|i feel|i am doing|i am feeling] [fine|good|well|happy|great|ok|very happy|wonderful|so happy|very "
            "good|excited|proud][| today| too|, thanks| thank you][|!|.]",
            "[fine|good|great|very well|pretty good|all good|not bad|i had a good day|fine, thanks|good, and you|i am good, and "
            "you][|!|.]",
        ),
        (
            "[I am glad to hear that!|That is good to hear!|Wonderful!|That makes me happy!|Great!|I am happy for you!] "
            "[What shall we talk about?|How can I help you?|Would you like a story?|Is there anything that I can do for you?]",
        ),
    ),
    (
        (
            "[i am|i'm|im|i feel|i am feeling] [|so |very |a bit |really ][sad|unhappy|down|lonely|alone|not well|depressed|"
            "bad|terrible|awful|miserable|heartbroken][| today][|.|!]",
            "[i had a bad day|my day was bad|nobody likes me|i lost my job|my dog died|my cat died|i miss my friend|i want to "
            "cry|life is hard|i have no friends|i am not ok|everything is bad][|.]",
        ),
        (
            "I am sorry to hear that. [I hope you feel better soon.|Sometimes it helps to talk to a friend.|Would you like to "
            "hear a story?|Perhaps a walk and a cup of tea will help a little.|Please talk to someone who is close to you.]",
        ),
    ),
    (
        (
            "[i am|i'm|im|i feel] [|so |very |really |a bit ][tired|sleepy|exhausted|stressed|overworked][| today][|.|!]",
            "[i need a break|i cannot sleep|i can't sleep|i worked all day|work was hard|i want to sleep|i have too much work][|.]",
        ),
        (
            "[Then rest a little.|You should take a break.|I hope you can rest soon.] [A glass of water helps, too.|Shall I "
            "tell you a bedtime story?|Sleep is good for everyone.|The work can wait.]",
        ),
    ),
    (
        (
            "[i am|i'm|im|i feel] [|so |very |really |a bit ][bored|boring][| today][|.|!]",
            "[entertain me|amuse me|say something|tell me something|tell me something interesting|surprise "
            "me|say something funny|talk to me|let's talk|let us chat|let's chat|i want to talk|chat with me|can we talk|"
            "i have nothing to do][|.|!|?]",
        ),
        (
            "[Shall I tell you a story?|Would you like a story, a joke or a riddle?|Ask me for a story about a dragon!|Let me "
            "ask you something: what is your favourite animal?]",
            "Did you know that [an octopus has three hearts?|bees dance to show each other the way?|a snail can sleep for a "
            "very long time?|a quire is a gathering of pages?|bananas are berries?|honey almost never goes bad?|sea otters hold "
            "hands when they sleep?|a group of crows is called a murder?]",
        ),
    ),
    (
        (
            "[i am|i'm|im|i feel] [|so |very |really |a bit ][angry|mad|annoyed|upset|furious][| today| at you| with you][|.|!]",
        ),
        (
            "I am sorry. [Take a deep breath.|Do you want to tell me what happened?|I hope it passes soon.|Count to ten with me.]",
        ),
    ),
    (
        ("[i am|i'm|im|i feel] [|so |very |really |a bit ][hungry|starving][| now| today][|.|!]",),
        ("[Then eat something good!|How about some soup?|A sandwich is quickly made.|Have an apple.]",),
    ),
    (
        ("[i am|i'm|im|i feel] [|so |very |really |a bit ]thirsty[| now| today][|.|!]",),
        ("[Then drink a glass of water.|How about a cup of tea?|Water is the best for that.]",),
    ),
    (
        (
            "[i am|i'm|im|i feel] [|so |very |really |a bit ][sick|ill|cold|hot|afraid|scared|nervous|worried|anxious|in "
            "love|confused|lost|late|busy][| now| today][|.|!]",
        ),
        (
            "[I see.|Oh!|I understand.] [I hope it gets better soon.|I wish you all the best.|Take good care of "
            "yourself.|Take your time, I am here.]",
        ),
    ),
)

MANNERS: tuple[Group, ...] = (
    (
        (
            "[thanks|thank you|thank you very much|thanks a lot|thx|many thanks|thank you so much|ty|thanks!!|thank u|cheers|"
            "great, thanks|ok, thanks|ok thank you|cool, thanks|thanks for your help|thank you for the help|perfect, thank "
            "you|nice, thanks|thanks for the answer][|!|.]",
        ),
        (
            "[You are welcome!|You're welcome!|My pleasure!|Gladly!|No problem!|Any time!] [|Is there anything else?|Just ask if "
            "you need more.|Have a nice day!|I am happy to help.]",
        ),
    ),
    (
        (
            "[bye|goodbye|good bye|see you|see you later|bye bye|good night|i have to go|farewell|see you tomorrow|cu|ciao, "
            "bye|talk to you later|i must go|exit|quit|have a nice day|i am leaving|that is all|that's all|until next time|"
            "take care|gotta go|good night, sleep well][|!|.]",
        ),
        (
            "[Goodbye!|Bye!|See you soon!|Good night!|Take care!|Farewell!] [|Have a nice day!|Come back soon.|It was nice to talk "
            "to you.|Until next time!|Sleep well!|Thank you for the chat.]",
        ),
    ),
    (
        (
            "[ok|okay|cool|nice|great|good|wow|interesting|i see|alright|fine|sure|aha|oh|hm|hmm|lol|haha|amazing|awesome|"
            "perfect|good to know|right|got it|not bad|well done|good job|good answer|very good|impressive|fantastic|sweet|"
            "excellent|understood|you are right|correct|that is correct|neat][|!|.]",
        ),
        (
            "[I am glad!|Good!|Thank you!|Nice!|Great!] [What else would you like to know?|Is there anything else?|Ask me "
            "something else!|Shall I tell you a story?|What next?]",
        ),
    ),
    (
        (
            "[yes|no|yeah|yep|nope|maybe|perhaps|i do not know|i don't know|not really|of course|y|n|dunno|no idea|no thanks|"
            "nothing|never mind|idk|whatever|yes please|no thank you][|!|.]",
        ),
        (
            "[I see.|All right.|Okay.|Good.] [What would you like to talk about?|Ask me something.|Would you like a story?|Tell me "
            "more.|What else can I do for you?]",
        ),
    ),
    (
        ("[sorry|i am sorry|my mistake|excuse me|pardon|oops|i apologize|my bad][|!|.]",),
        (
            "[No problem!|That is all right.|It is fine, do not worry.|No need to be sorry.] [|How can I help you?]",
        ),
    ),
    (
        (
            "[you are stupid|you suck|you are bad|i hate you|you are dumb|shut up|you are useless|that is wrong|wrong|that's "
            "wrong|bad answer|no, that is wrong|you are wrong|stupid bot|this is bad|you make no sense|that makes no sense|"
            "that is not true|nonsense|that is not what i asked|you do not understand|be quiet|this is garbage][|!|.]",
        ),
        (
            "I am sorry. [I am only a tiny model, and I make mistakes.|I know very little, but I try.|Please try to ask in "
            "another way.|With a larger model, quire can do much better.]",
        ),
    ),
    (
        (
            "[you are great|i like you|i love you|you are funny|you are nice|you are cute|you are smart|you are the best|you are "
            "sweet|you are amazing|will you marry me|be my friend|can we be friends|do you love me|do you like me|you rock|you "
            "are so clever|you are good|i like talking to you][|!|.|?]",
        ),
        (
            "[Thank you!|That is very kind.|You are very kind!|Oh, thank you!] [I am only a tiny model, but I like our chat.|You "
            "are nice, too.|That makes my day.|I am happy to be your friend, as far as a program can.]",
        ),
    ),
    (
        (
            "[test|testing|this is a test|1 2 3|test test|is this working|does this work|are you there|is anyone there|can you "
            "hear me|hello?|ping|anybody home|are you online|are you working|do you work|check|is it on|just testing|testing "
            "testing][|.|!|?]",
        ),
        (
            "[Yes, I am here!|It works!|I am here.|Pong! I am here.|Yes, I can read you.|Yes, it works.] [What would you like to talk "
            "about?|How can I help you?|Ask me something.|]",
        ),
    ),
    (
        (
            "[why|why?|how|how?|what|what?|how so|why is that|what do you mean|huh|pardon?|i do not understand|i don't "
            "understand|can you explain|explain|say that again|repeat that|what did you say|but why|how come|when|where|who][|?|]",
        ),
        (
            "[I am not sure how to say it better.|That is hard to say for me.|I am too small to explain that well.] [Please ask in "
            "another way.|Could you ask a whole question?|Ask me about something else.]",
        ),
    ),
    (
        (
            "[asdf|qwerty|blah|bla bla|xyz|aaaa|dfgh|jkl|hjkl|foo|foo bar|lorem ipsum|abc|zzz|???|...|!!!|:)|:-)|;)|:D|<3|.|?|👍|"
            "😀|😊|❤️|👋|🙂|🎉|#|-|xx|asdfgh|qwertz|sdfsdf|test123|uiop|ghjk|fdsa]",
        ),
        (
            "[Hello!|Hm.|:)] [I did not understand that.|I am not sure what you mean.] [Ask me something, or say hello.|Please try "
            "again with a few words.|What would you like to talk about?]",
        ),
    ),
)
