"""Ways to ask about stories and facts, for a tale, and for something to be repeated."""

from __future__ import annotations

from nanochat_cli.core.data.tinyworld.frames import Phrases

# fmt: off
STORIES = {
    "who": Phrases(
        whole=(
            "who has the {o}?", "who has the {o} now?", "who owns the {o}?", "who owns the {o} now?",
            "who holds the {o}?", "who has got the {o}?", "whose is the {o}?", "whose {o} is it now?",
            "at the end, who has the {o}?", "who has the {o} at the end?", "who is it that has the {o}?",
            "now who owns the {o}?",
        ),
        do=("name the owner of the {o}", "say who has the {o}"),
        thing=("the owner of the {o}", "the one who has the {o}"),
        know=("who has the {o}", "who owns the {o}", "who has the {o} now", "whose the {o} is"),
    ),
    "what": Phrases(
        whole=(
            "what does {n} have?", "what does {n} have now?", "what does {n} own?", "what has {n} got?",
            "what has {n} got now?", "what thing does {n} have?", "which thing does {n} have?", "what is with {n}?",
            "what does {n} hold?", "what does {n} have at the end?", "at the end, what does {n} have?",
            "which thing does {n} own now?", "what is it that {n} has?", "now what does {n} own?",
        ),
        do=("name the thing that {n} has", "say what {n} has"),
        thing=("the thing that {n} has", "the thing that {n} owns"),
        know=("what {n} has", "what {n} owns", "what {n} has now", "which thing {n} has"),
    ),
    "where": Phrases(
        whole=(
            "where is {n}?", "where is {n} now?", "where can I find {n}?", "where did {n} go?",
            "where do I find {n} now?", "in which place is {n}?", "what place is {n} in?",
            "which place is {n} in now?", "where is {n} at the end?", "at the end, where is {n}?",
            "where must I look for {n}?", "where is it that {n} is?", "now in which place is {n}?",
        ),
        do=("name the place of {n}", "say where {n} is"),
        thing=("the place where {n} is", "the place of {n}"),
        know=("where {n} is", "where {n} is now", "where {n} went", "in which place {n} is", "where I can find {n}"),
    ),
    "tell": Phrases(
        whole=(
            "do you have a story about {n} and a {o}?", "tell me about {n} and a {o} in a story.",
            "a story with {n} and a {o}?",
        ),
        do=(
            "tell me a story about {n} and a {o}", "tell a story with {n} and a {o}",
            "write a story about {n} and a {o}", "make up a story about {n} and a {o}",
            "write a short story with {n} and a {o}", "tell a short story about {n} and a {o}",
        ),
    ),
}

SAYING = {
    "echo": Phrases(
        whole=(
            "say after me: {x}.", "repeat after me: {x}.", "say this: {x}.", "repeat this: {x}.", "say it again: {x}.",
            "say it after me: {x}.", "I say {x}. What do I say?", "I said {x}. What did I say?",
            "write this down: {x}.", "let me hear {x}.", "now you say {x}.", "what I say is {x}. What do I say?",
            "repeat the words: {x}.",
        ),
        do=("say {x}", "repeat {x}", "say the words {x}", "repeat the words {x}"),
    ),
}

FACTS = {
    "fact-color": Phrases(
        whole=(
            "what color is {x}?", "which color is {x}?", "what color does {x} have?", "which color does {x} have?",
            "which color do you see on {x}?", "of what color is {x}?",
        ),
        thing=("the color of {x}", "the color that {x} has"),
        know=("what color {x} is", "which color {x} has"),
    ),
    "fact-sound": Phrases(
        whole=(
            "what sound does {x} make?", "which sound does {x} make?", "what noise does {x} make?",
            "how does {x} sound?", "what do you hear from {x}?", "which noise do you hear from {x}?",
        ),
        thing=("the sound of {x}", "the sound that {x} makes"),
        know=("what sound {x} makes", "how {x} sounds"),
    ),
    "fact-young": Phrases(
        whole=(
            "what is the young of {x} called?", "what do you call the young of {x}?",
            "what is the baby of {x} called?", "what do you call the baby of {x}?",
            "what is the name of the young of {x}?", "what name has the baby of {x}?",
        ),
        thing=("the young of {x}", "the name for the young of {x}"),
        know=("what the young of {x} is called", "what you call the baby of {x}"),
    ),
    "fact-opposite": Phrases(
        whole=(
            "which word is the opposite of {x}?", "what word means the opposite of {x}?",
            "the opposite of {x} is which word?", "what do you call the opposite of {x}?", "say the opposite: {x}.",
        ),
        thing=("the opposite of {x}", "a word that is the opposite of {x}"),
        know=("what the opposite of {x} is", "which word is the opposite of {x}"),
    ),
    "fact-tool": Phrases(
        whole=(
            "what do you need to {x}?", "what do you use to {x}?", "which tool do you need to {x}?",
            "what tool do you use to {x}?", "with what do you {x}?", "I want to {x}. What do I need?",
            "what is used to {x}?", "if I want to {x}, what do I use?",
        ),
        thing=("the tool to {x}",),
        know=("what you use to {x}", "which tool you need to {x}", "what I need to {x}"),
    ),
    "fact-home": Phrases(
        whole=(
            "where does {x} live?", "what is the home of {x} called?", "where is the home of {x}?",
            "in what does {x} live?", "where do you find {x}?", "what place is home to {x}?",
        ),
        thing=("the home of {x}", "the place where {x} lives"),
        know=("where {x} lives", "what the home of {x} is"),
    ),
    "fact-kind": Phrases(
        whole=(
            "what kind of thing is {x}?", "what kind of thing do we call {x}?", "{x} is what kind of thing?",
            "to which kind does {x} belong?", "which kind of thing is {x}?", "what sort of thing is {x}?",
        ),
        thing=("the kind of {x}", "the kind that {x} belongs to"),
        know=("what kind of thing {x} is", "which kind {x} belongs to"),
    ),
    "fact-legs": Phrases(
        whole=(
            "how many legs does {x} have?", "how many legs has {x} got?", "on how many legs does {x} walk?",
            "how many legs are on {x}?", "what number of legs does {x} have?", "how many legs are there on {x}?",
        ),
        thing=("the number of legs of {x}", "the number of legs that {x} has"),
        know=("how many legs {x} has", "on how many legs {x} walks"),
    ),
    "fact-next-time": Phrases(
        whole=(
            "what comes after {x}?", "what is next after {x}?", "what follows {x}?", "which one comes after {x}?",
            "after {x}, what comes next?", "what is after {x}?", "when {x} is over, what comes next?",
        ),
        thing=("the one after {x}", "the one that follows {x}"),
        know=("what comes after {x}", "which one follows {x}"),
    ),
    "fact-job": Phrases(
        whole=(
            "whose job is it to {x}?", "who is there to {x}?", "which worker is there to {x}?",
            "who do you call to {x}?", "what do you call the worker to {x}?", "whose work is it to {x}?",
            "to {x} is the job of whom?",
        ),
        thing=("the worker who is there to {x}", "the one whose job it is to {x}"),
        know=("whose job it is to {x}", "which worker you call to {x}"),
    ),
    "fact-plural": Phrases(
        whole=(
            "what is more than one {x} called?", "how do you say two of {x}?", "what do you call more than one {x}?",
            "which word is the plural of {x}?", "what word means more than one {x}?", "one {x}, two what?",
        ),
        thing=("the plural of {x}", "the word for more than one {x}"),
        know=("what the plural of {x} is", "what more than one {x} is called"),
    ),
}
# fmt: on
