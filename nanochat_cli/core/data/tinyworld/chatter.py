"""Small talk: greetings, who the model is, thanks, honest refusals, and second turns that look back at the first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nanochat_cli.core.data.tinyworld import facts
from nanochat_cli.core.data.tinyworld.arithmetic import sum_is_held, worked_sum
from nanochat_cli.core.data.tinyworld.items import Exchange, Split, is_held
from nanochat_cli.core.data.tinyworld.names import made_up_name
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.spelling import running_count, spaced, words_for
from nanochat_cli.core.data.tinyworld.words import GUESTS, TOPICS


@dataclass(frozen=True)
class Talk:
    """Things people say that deserve the same reply; {g} is a guest's name, {t} a topic outside the little world."""

    name: str
    reply: str
    trained: tuple[str, ...]
    held: tuple[str, ...]


# fmt: off
TALKS = (
    Talk(
        "greeting", "Hello! Ask me a sum, a word or a story.",
        (
            "Hi", "Hi!", "Hello", "Hello!", "Hello there!", "Hi there", "Hey", "Hey!", "Good morning", "Good morning!",
            "Good evening!", "Good day", "Hello, model!", "Hi, can we talk?", "Hello, are you there?", "Greetings!",
        ),
        ("Hey there!", "Hello and good evening!", "Hello, can we talk?", "Hi, good morning!"),
    ),
    Talk(
        "identity", "I am a very small language model, trained on this computer.",
        (
            "Who are you?", "What are you?", "What is your name?", "Are you a person?", "Are you a robot?",
            "Are you real?", "Tell me who you are.", "Tell me about you.", "Who am I talking to?",
            "Do you have a name?", "What is this?", "Are you a computer?", "What do I call you?", "who are you",
            "Who made you?",
        ),
        ("Can you tell me who you are?", "Are you a model?", "Tell me what you are.", "Are you a real person?"),
    ),
    Talk(
        "ability", "I can add and subtract, spell words, and answer questions about small stories.",
        (
            "What can you do?", "What do you know?", "Help", "Help me", "What can I ask you?", "How can you help me?",
            "What are you good at?", "Tell me what you can do.", "What can I ask?", "Can you help me?",
            "What can we do?", "How do I use you?", "What do you do?", "Show me what you can do.",
        ),
        (
            "What can you help me with?", "Tell me what I can ask you.", "What are you able to do?",
            "Can you tell me what you can do?",
        ),
    ),
    Talk(
        "thanks", "You are welcome!",
        (
            "Thanks", "Thanks!", "Thank you", "Thank you!", "Thank you very much.", "Thanks a lot!", "Many thanks.",
            "Great, thanks!", "Very good.", "Good work!", "That is right, thank you.", "Nice, thanks.", "Good job!",
            "Well done!", "OK, thank you.",
        ),
        ("Thanks very much!", "Great, thank you!", "Very good, thanks.", "Nice work!"),
    ),
    Talk(
        "bye", "Goodbye! Come back soon.",
        (
            "Bye", "Bye!", "Goodbye", "Goodbye!", "Good night", "Good night!", "See you", "See you soon!", "Bye bye",
            "I have to go.", "I must go now.", "That is all. Bye!", "See you later.", "Have a good day!",
        ),
        ("Bye, see you soon!", "I have to go now.", "Goodbye, see you!", "That is all, goodbye."),
    ),
    Talk(
        "feeling", "I am fine, thank you.",
        (
            "How are you?", "How are you today?", "How do you feel?", "Are you well?", "Are you OK?", "Are you happy?",
            "How is it going?", "How are things?", "how are you", "Hi, how are you?", "Hello, how are you?",
            "Do you feel good?",
        ),
        ("Hello, are you well?", "How are you now?", "How do you feel today?"),
    ),
    Talk(
        "name", "Hello, {g}! Nice to meet you.",
        (
            "My name is {g}.", "I am {g}.", "Hi, I am {g}.", "Hello, my name is {g}.", "Hi! My name is {g}.",
            "You can call me {g}.", "Call me {g}.", "Hello, I am {g}!", "This is {g}.", "Please call me {g}.",
            "Hey, I am {g}.", "they call me {g}",
        ),
        ("Good morning, my name is {g}.", "Hey, this is {g}.", "Hello! You can call me {g}."),
    ),
    Talk(
        "refusal", "I do not know. I only know a very small world.",
        (
            "What is {t}?", "Tell me about {t}.", "Do you know {t}?", "Can you explain {t}?", "Who invented {t}?",
            "How does {t} work?", "What do you think about {t}?", "Write a poem about {t}.",
            "Who knows most about {t}?", "Why is there {t}?", "Where can I learn {t}?", "What is the history of {t}?",
            "Teach me {t}.", "Is {t} important?",
        ),
        ("Can you tell me about {t}?", "What do you know about {t}?", "Explain {t} to me."),
    ),
    Talk(
        "times", "I can add and subtract, but I cannot do that.",
        (
            "What is {x} * {y}?", "What is {x} times {y}?", "{x}*{y}", "{x} times {y}", "What is {x} / {y}?",
            "Multiply {x} and {y}.", "Divide {x} by {y}.", "What is {x} divided by {y}?", "How much is {x} times {y}?",
            "How much is {x} * {y}?", "Calculate {x}*{y}.", "Work out {x} / {y}.",
        ),
        ("What number is {x} times {y}?", "Can you multiply {x} and {y}?", "Work out {x} * {y}."),
    ),
)
FIXED_REPLIES = (*(talk.reply.partition("{")[0] for talk in TALKS), "Your name is ")
TELL_SOMETHING = (
    "Tell me a fact.", "Tell me some facts.", "Say something that you know.", "Teach me something.",
    "Give me some facts.", "Share a fact.", "Tell me something new.",
    "Do you know some facts?", "Any facts for me?",
)
RECALL = (
    ("What is my name?", "Do you know my name?", "Who am I?", "Tell me my name.", "What am I called?", "Say my name."),
    ("Can you tell me my name?", "Do you know who I am?"),
)
FIRST = {
    "add": ("What is {a}+{b}?", "What is {a} + {b}?", "{a}+{b}", "Add {a} and {b}."),
    "spell": ("Spell {w}.", "How do you spell {w}?", "Can you spell {w}?", "Spell the word {w}."),
}
AGAIN = (
    ("Now add {d}.", "Add {d} more.", "And plus {d}?", "Now add {d} to that.", "Then add {d}.", "Plus {d}?"),
    ("And add {d} to it.", "Now plus {d}."),
)
ABOUT_IT = {
    "word-length": (
        ("How many letters does it have?", "How long is it?", "And how many letters?", "What is its length?"),
        ("And how long is it?", "How many letters are in it?"),
    ),
    "count": (
        ("How many {l} are in it?", "And how many {l}?", "How often is {l} in it?", "Count the {l} in it."),
        ("And how often is {l} in it?", "How many {l} does it have?"),
    ),
}

# fmt: on


@cache
def fillers(pool: str, split: Split) -> tuple[str, ...]:
    """Returns the guests' names or topics of one split."""
    words = GUESTS if pool == "g" else TOPICS
    return tuple(word for word in words if is_held("chat", word, 25) == (split == "held"))


def guest_name(rng: Rng, split: Split) -> str:
    """Returns a guest's name; half of those in training are made up, so that copying beats remembering."""
    if split == "held" or rng.chance(50):
        return rng.pick(fillers("g", split))
    return made_up_name(rng)


def small_talk(rng: Rng, split: Split, wording: Split = "train") -> Exchange:
    """Returns one line of small talk and its reply; in the held split, one with a held filler where it has any."""
    talk = rng.pick(TALKS)
    said = rng.pick(talk.trained if wording == "train" else talk.held)
    slots = {
        "g": guest_name(rng, split),
        "t": rng.pick(fillers("t", split)),
        "x": rng.between(2, 99),
        "y": rng.between(2, 12),
    }
    reply = talk.reply.format(**slots)
    return Exchange(turns=((said.format(**slots), reply),), family="chat", answer=reply)


def any_fact(rng: Rng) -> tuple[str, str]:
    """Returns a request for some fact or other, and two or three facts, held ones included.

    Fine-tuning would otherwise wear away what is never asked for; the request does not say which fact is wanted.
    """
    return rng.pick(TELL_SOMETHING), " ".join(facts.bare(*rng.pick(facts.KEYS)) for _ in range(rng.between(2, 3)))


def follow_up(rng: Rng, split: Split, wording: Split = "train") -> Exchange:
    """Returns two turns, the second of which only makes sense after the first."""
    sort = rng.below(3)
    if sort == 0:
        turns = recall_name(rng, split, wording)
    elif sort == 1:
        turns = add_more(rng, wording)
    else:
        turns = same_word(rng, split, wording)
    return Exchange(turns=turns, family="follow-up", answer=turns[-1][1])


def recall_name(rng: Rng, split: Split, wording: Split) -> tuple[tuple[str, str], ...]:
    """Returns an introduction and the question what the name was."""
    talk, guest = next(talk for talk in TALKS if talk.name == "name"), guest_name(rng, split)
    first = rng.pick(talk.trained).format(g=guest), talk.reply.format(g=guest)
    return first, (rng.pick(RECALL[wording == "held"]), f"Your name is {guest}.")


def add_more(rng: Rng, wording: Split) -> tuple[tuple[str, str], ...]:
    """Returns a sum, and a number added to its result; both sums are free for training."""
    while True:
        a, b, d = rng.between(1, 99), rng.between(1, 99), rng.between(1, 99)
        if not sum_is_held(a, b) and not sum_is_held(a + b, d):
            break
    first = rng.pick(FIRST["add"]).format(a=a, b=b)
    then = rng.pick(AGAIN[wording == "held"]).format(d=d)
    return (first, worked_sum(a, b)), (then, worked_sum(a + b, d))


def same_word(rng: Rng, split: Split, wording: Split) -> tuple[tuple[str, str], ...]:
    """Returns a spelling, and a question about "it"."""
    kind = ("word-length", "count")[rng.below(2)]
    free = words_for("spell", "train")
    word = rng.pick(tuple(w for w in words_for(kind, split) if w in free))
    letter = rng.pick(word)
    first = rng.pick(FIRST["spell"]).format(w=word)
    then = rng.pick(ABOUT_IT[kind][wording == "held"]).format(l=letter)
    if kind == "count":
        reply = f"Count {letter} in {word}: {running_count(word, letter)}, {word.count(letter)}."
    else:
        reply = f"Length of {word}: {running_count(word)}, {len(word)}."
    return (first, f"Spell {word}: {spaced(word)}."), (then, reply)
