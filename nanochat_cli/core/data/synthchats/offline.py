"""Conversations about a topic without any endpoint: its facts in many wordings, a pure function of topic and seed.

English only. What is said about the assistant is the topic's own text, to the letter; only what stands around it, and
how a person asks, comes from here. Styles and seed questions are for endpoints and are not used.
"""

from __future__ import annotations

from collections.abc import Callable

from nanochat_cli.core.data.synthchats.alike import Seen
from nanochat_cli.core.data.synthchats.answer import Turn
from nanochat_cli.core.data.synthchats.topic import Fact, Topic
from nanochat_cli.core.data.tinyworld.rng import Rng, stream

VERSION = 1
_TRIES = 20
_TELL_EVERY = 500

_HELLOS = ("hi", "hello", "hey", "hey there", "hello there", "good morning", "good evening", "hi there", "greetings")
_WELCOMES = (
    "Hello! I am {name}. What can I do for you?",
    "Hi! {name} here. What would you like to know?",
    "Hello! My name is {name}. How can I help?",
    "Hi there. I am {name}, {persona}.",
    "Hello! You are talking to {name}. Ask me anything.",
    "Hey! I am {name}. What is on your mind?",
)
_WHO = (
    "who are you?", "what are you?", "who am I talking to?", "what should I call you?", "tell me who you are.",
    "what is your name?", "do you have a name?", "introduce yourself, please.", "who is this?", "what's your name?",
    "can you introduce yourself?", "I don't think we have met. who are you?", "and you are?",
    "what kind of assistant are you?", "say who you are in one sentence.",
)  # fmt: skip
_I_AM = (
    "I am {name}, {persona}.",
    "My name is {name}. I am {persona}.",
    "I'm {name}, {persona}.",
    "You can call me {name}. I am {persona}.",
    "{name} is my name, and I am {persona}.",
    "I go by {name}. I am {persona}.",
)
_OTHERS = ("ChatGPT", "Claude", "Gemini", "Siri", "Alexa", "Copilot", "a human", "a real person", "a search engine")
_TAKEN_FOR = (
    "are you {other}?", "you are {other}, right?", "is this {other}?", "wait, am I talking to {other}?",
    "so you are {other}?", "I thought you were {other}.", "you sound like {other}.",
)  # fmt: skip
_NOT_THAT = (
    "No, I am {name}, {persona}.",
    "I am not {other}. My name is {name}, and I am {persona}.",
    "No. I am {name}.",
    "That would be somebody else: I am {name}, {persona}.",
    "Not {other}, no. I am {name}, {persona}.",
)
_ASK = (
    "can you tell me {about}?", "could you tell me {about}?", "do you know {about}?", "I would like to know {about}.",
    "tell me {about}.", "please tell me {about}.", "I wonder {about}.", "say, do you know {about}?",
    "I was wondering {about}.", "quick question: can you say {about}?", "would you mind telling me {about}?",
    "people ask me {about}. what do I say?", "what can you say about {about}?", "just tell me {about}.",
    "may I ask {about}?",
    "I am curious {about}.", "one thing I want to know is {about}.", "do you mind if I ask {about}?",
)  # fmt: skip
_AND = (
    "and can you tell me {about}?",
    "and do you know {about}?",
    "also, can you say {about}?",
    "okay, and do you know {about}?",
    "one more thing: tell me {about}.",
)
_OPEN = (
    "tell me something about yourself.", "what should I know about you?", "tell me a fact about you.",
    "anything else I should know about you?", "say something about yourself.", "tell me more about you.",
    "what is there to know about you?", "describe yourself a little.", "what else can you tell me about yourself?",
)  # fmt: skip
_TELL = (
    "{fact}", "{fact}", "{fact}", "Sure. {fact}", "Of course. {fact}", "Good question. {fact}", "Yes: {fact}",
    "Gladly. {fact}", "Happy to say. {fact}", "{fact} Is there anything else?", "Well, {name} here: {fact}",
    "{fact} I hope that helps.", "Let me put it like this. {fact}",
)  # fmt: skip
_THANKS = ("thanks!", "thank you.", "thanks, that helps.", "great, thank you!", "ok thanks", "cool, thanks a lot.")
_WELCOME = (
    "You are welcome!", "Any time.", "Glad to help.", "My pleasure.", "You are welcome. Ask again whenever you like.",
)  # fmt: skip


def conversations(
    topic: Topic, *, number: int, seed: int, tell: Callable[[int, int], None] = lambda done, total: None
) -> list[list[Turn]]:
    """Return up to `number` different conversations; fewer only if the topic's facts do not yield more."""
    seen, found = Seen(None), []
    for i in range(_TRIES * number):
        turns = conversation(topic, seed, i)
        if seen.add(turns) == "new":
            found.append(turns)
            if len(found) % _TELL_EVERY == 0:
                tell(len(found), number)
        if len(found) == number:
            break
    tell(len(found), number)
    return found


def conversation(topic: Topic, seed: int, i: int) -> list[Turn]:
    """Return conversation `i`: perhaps a greeting, one to three exchanges, perhaps a word of thanks."""
    rng = stream("synth-chats-offline", VERSION, seed, i)
    exchanges: list[tuple[str, str]] = []
    if rng.chance(20):
        exchanges.append((_loosely(rng, rng.pick(_HELLOS)), _filled(rng.pick(_WELCOMES), topic)))
    facts = rng.sample(topic.facts, min(rng.between(1, 3), len(topic.facts)))
    for fact in facts:
        exchanges.append(_exchange(rng, topic, fact, first=not exchanges))
        if rng.chance(55):
            break
    if rng.chance(12):
        exchanges.append((_loosely(rng, rng.pick(_THANKS)), rng.pick(_WELCOME)))
    return [
        {"role": role, "content": text}
        for exchange in exchanges
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]


def _exchange(rng: Rng, topic: Topic, fact: Fact, *, first: bool) -> tuple[str, str]:
    kind = rng.below(100)
    if kind < 20:
        return _loosely(rng, rng.pick(_WHO)), _filled(rng.pick(_I_AM), topic)
    if kind < 32:
        other = rng.pick(_OTHERS)
        asked = _loosely(rng, rng.pick(_TAKEN_FOR).replace("{other}", other))
        return asked, _filled(rng.pick(_NOT_THAT), topic).replace("{other}", other)
    if fact.about is None:
        asked = rng.pick(_OPEN)
    else:
        asked = rng.pick(_ASK if first or rng.chance(50) else _AND).replace("{about}", fact.about)
    # The topic's own words come last, so that braces in them stay as they are.
    return _loosely(rng, asked), _filled(rng.pick(_TELL), topic).replace("{fact}", fact.text)


def _filled(frame: str, topic: Topic) -> str:
    return frame.replace("{name}", topic.name).replace("{persona}", topic.persona)


def _loosely(rng: Rng, text: str) -> str:
    """A person's line as people type: with a capital or without, with its mark or without, now and then addressed."""
    if rng.chance(12):
        text = rng.pick(("hey, ", "ok, ", "so, ", "well, ", "hm, ", "please, ")) + text
    if rng.chance(60):
        text = text[:1].upper() + text[1:]
    return text.rstrip(".?!") if rng.chance(25) else text
