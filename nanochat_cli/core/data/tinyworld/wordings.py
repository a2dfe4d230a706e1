"""Ways to ask about numbers, letters, stories and facts. A hash keeps an eighth of each kind for testing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from nanochat_cli.core.data.tinyworld.frames import Phrases
from nanochat_cli.core.data.tinyworld.rng import hash64

HELD_OF = 8  # one wording in so many is never trained on, and three of each kind at least
LEAST_HELD = 3

# A sum names its numbers in the order of the question; a difference has to sort them out.
# fmt: off
NUMBERS = {
    "add": Phrases(
        whole=(
            "{a}+{b}", "{a} + {b}", "{a} + {b} = ?", "{a}+{b}=", "what is {a} + {b}?", "what is {a}+{b}?",
            "how much is {a} + {b}?", "how much is {a}+{b}?", "how much is {a} plus {b}?", "how much is {a} and {b}?",
            "what do you get if you add {a} and {b}?", "what do you get from {a} plus {b}?",
            "if I add {a} and {b}, what do I get?", "if you put {a} and {b} together, what do you get?",
            "how many are {a} and {b} together?", "how much do {a} and {b} make together?", "what do {a} and {b} make?",
            "what does {a} plus {b} make?", "{a} and {b} is how much?", "together, how much are {a} and {b}?",
            "what number is {a} more than {b}?", "how much is {a} more than {b}?", "{a} more than {b} is what?",
            "start with {a} and add {b}.", "start with {a}. Add {b}. What do you get?", "begin with {a} and add {b}.",
            "start with {a}, then add {b}. What is it now?", "first {a}, then {b} more. How many is that?",
            "{a}, and {b} more. How many is that?", "I had {a} and got {b} more. How many do I have?",
            "I have {a} and you have {b}. How many do we have together?", "I have {a}. You give me {b}. What have I got?",
            "if you have {a} and get {b} more, how many is that?", "I have {a} and I want to add {b}. How much is that?",
            "I have {a} {s} and get {b} more. How many {s} do I have?",
            "I have {a} {s} and find {b} more. How many {s} have I got now?",
            "I see {a} {s} here and {b} {s} there. How many {s} do I see?",
            "there are {a} {s}. Then {b} more come. How many {s} are there?",
            "there are {a} {s} in one box and {b} in another. How many are there in all?",
            "there were {a} {s} and now there are {b} more. How many {s} are there now?",
            "one box has {a} {s}, the other has {b}. How many {s} are in both?",
            "we have {a} {s} and {p} has {b}. How many {s} are that together?",
            "{p} has {a} {s} and gets {b} more. How many {s} does {p} have now?",
            "{p} has {a} {s}. {p} buys {b} more. How many {s} is that?",
            "{p} has {a} {s}, I have {b}. How many {s} do we have?",
            "{p} has {a} {s} and I give {p} {b} more. How many {s} has {p} now?",
            "{p} finds {a} {s} and I find {b} {s}. How many {s} did we find together?",
            "{p} had {a} {s} and then found {b}. How many {s} has {p} now?",
            "{p} sees {a} cows and {b} sheep. How many animals does {p} see?",
            "we see {a} {s}, then {b} more. How many {s} do we see?", "a hen has {a} eggs, a duck has {b}. How many eggs?",
            "I read {a} pages today and {b} before. How many pages is that?",
            "{p} walks {a} steps and then {b} more. How many steps is that?",
        ),
        do=(
            "add {a} and {b}", "add up {a} and {b}", "add {a} to {b}", "work out {a} + {b}", "work out {a} plus {b}",
            "calculate {a}+{b}", "compute {a} plus {b}", "put {a} and {b} together", "solve {a}+{b}",
            "say what {a} and {b} make", "take {a} and add {b} to it", "count {a} and {b} together",
        ),
        thing=(
            "{a}+{b}", "{a} + {b}", "{a} plus {b}", "the sum of {a} and {b}", "the sum {a} + {b}",
            "{a} and {b} together", "the total of {a} and {b}",
        ),
        know=(
            "how much {a} + {b} is", "how much {a} and {b} make", "what {a} plus {b} is", "what {a}+{b} makes",
            "what you get if you add {a} and {b}",
        ),
    ),
    "sub": Phrases(
        whole=(
            "{a}-{b}", "{a} - {b}", "{a} - {b} = ?", "{a}-{b}=", "what is {a} - {b}?", "what is {a}-{b}?",
            "how much is {a} - {b}?", "how much is {a}-{b}?", "how much is {a} minus {b}?", "how much is {a} less {b}?",
            "what is {a} take away {b}?", "what do you get if you take {b} from {a}?",
            "what do you get from {a} minus {b}?", "if I subtract {b} from {a}, what do I get?",
            "if you subtract {b} from {a}, what is left?", "if you take away {b} from {a}, how much is left?",
            "how much is left if you take {b} away from {a}?", "what is left of {a} if I take {b}?",
            "out of {a} I take {b}. How much is left?", "what does {a} minus {b} make?", "from {a}, take {b}.",
            "how much more is {a} than {b}?", "how much more than {b} is {a}?", "how many more is {a} than {b}?",
            "how much less is {b} than {a}?", "how much less than {a} is {b}?", "by how much is {a} more than {b}?",
            "how far is it from {b} to {a}?", "what is missing from {b} to {a}?", "how much do I add to {b} to get {a}?",
            "start with {a} and subtract {b}.", "start with {a} and take away {b}. What do you get?",
            "start with {a}. Subtract {b}. What is left?", "begin with {a} and take away {b}.",
            "start with {a}, then take {b} away. What is it now?", "I had {a} and lost {b}. How many do I have?",
            "I have {a} and you have {b}. How many more do I have?", "I have {a}. You take {b}. What have I got left?",
            "if {b} of {a} go away, how many are left?", "if you have {a} and lose {b}, how many are left?",
            "I have {a} and I want to take away {b}. How much do I have left?",
            "I have {a} {s} and give away {b}. How many {s} are left?",
            "I have {a} {s} and lose {b}. How many {s} have I got now?",
            "I see {a} {s}, then {b} are gone. How many {s} do I see?",
            "there are {a} {s}. Then {b} go away. How many {s} are left?",
            "there are {a} {s} in a box. {p} takes {b} of them. How many are left?",
            "there were {a} {s} and {b} broke. How many {s} are there now?",
            "a box has {a} {s}. I take out {b}. How many {s} are left?",
            "we had {a} {s} and used {b}. How many {s} are left?",
            "{p} has {a} {s} and gives away {b}. How many {s} does {p} have now?",
            "{p} has {a} {s}. {p} sells {b}. How many {s} are left?",
            "{p} has {a} {s}, I have {b}. How many more {s} does {p} have?",
            "{p} has {a} {s} and I take {b} of them. How many {s} has {p} now?",
            "{p} has {a} {s} and gives me {b}. How many {s} does {p} have left?",
            "{p} had {a} {s} and lost {b}. How many {s} has {p} now?",
            "{p} sees {a} cows, then {b} walk off. How many cows are left?",
            "we see {a} {s}, then {b} go. How many {s} do we see?", "a hen had {a} eggs, {b} broke. How many eggs now?",
            "I had {a} pages to read and read {b}. How many pages are left?",
            "{p} has to walk {a} steps and walks {b}. How many steps are left?",
        ),
        do=(
            "take {b} from {a}", "take {b} away from {a}", "take away {b} from {a}", "subtract {b} from {a}",
            "work out {a} - {b}", "work out {a} minus {b}", "calculate {a}-{b}", "compute {a} minus {b}",
            "solve {a}-{b}", "say what is left of {a} without {b}", "take {a} and subtract {b} from it",
            "count back {b} from {a}",
        ),
        thing=(
            "{a}-{b}", "{a} - {b}", "{a} minus {b}", "{a} less {b}", "the difference of {a} and {b}",
            "the difference {a} - {b}", "the difference between {a} and {b}", "the rest of {a} without {b}",
        ),
        know=(
            "how much {a} - {b} is", "how much is left of {a} if I take {b}", "what {a} minus {b} is",
            "what {a}-{b} makes", "what you get if you subtract {b} from {a}", "how much more {a} is than {b}",
        ),
    ),
    "add-three": Phrases(
        whole=("{a}+{b}+{c}", "{a} + {b} + {c}", "how much is {a} + {b} + {c}?", "{a}+{b}+{c}="),
        do=("add {a}, {b} and {c}", "work out {a} + {b} + {c}", "calculate {a}+{b}+{c}", "add up {a}, {b} and {c}"),
        thing=("{a} + {b} + {c}", "{a} plus {b} plus {c}", "the sum of {a}, {b} and {c}"),
        know=("how much {a} + {b} + {c} is",),
    ),
    "number-after": Phrases(
        whole=(
            "what number comes after {n}?", "which number comes after {n}?", "what comes after {n}?",
            "what comes next after {n}?", "which number follows {n}?", "what follows {n}?", "which number is next after {n}?",
            "I count and say {n}. What do I say next?", "after {n}, what number is next?", "{n}, and then?",
            "when I count, what follows {n}?", "I am at {n}. What number is next?",
        ),
        do=("count on from {n}", "name the number after {n}", "say the number that comes after {n}"),
        thing=("the number after {n}", "the next number after {n}", "the number that comes after {n}", "one more than {n}"),
        know=("what number comes after {n}", "which number follows {n}", "what comes after {n}"),
    ),
    "number-before": Phrases(
        whole=(
            "what number comes before {n}?", "which number comes before {n}?", "what comes before {n}?",
            "what comes just before {n}?", "which number is before {n}?", "what is before {n}?",
            "which number is just before {n}?", "I count back and say {n}. What do I say next?",
            "before {n}, what number is there?", "{n}, and before that?", "when I count back, what comes after {n}?",
            "I am at {n}. What number was before?",
        ),
        do=("count back from {n}", "name the number before {n}", "say the number that comes before {n}"),
        thing=("the number before {n}", "the last number before {n}", "the number that comes before {n}", "one less than {n}"),
        know=("what number comes before {n}", "which number is before {n}", "what comes before {n}"),
    ),
}

LETTERS = {
    "spell": Phrases(
        whole=(
            "how do you spell {w}?", "how is {w} spelled?", "how is {w} written?", "how do you write {w}?",
            "how should I spell {w}?", "how do people spell {w}?", "how is it spelled: {w}?", "which letters spell {w}?",
            "what letters are in {w}?", "which letters are in {w}?", "which letters make up {w}?", "what letters make {w}?",
            "what letters do I need to write {w}?", "in what way is {w} spelled?", "what is {w}, letter by letter?",
            "{w}, one letter at a time.", "{w}, letter by letter.", "how do you write {w}, letter by letter?",
            "the word is {w}. Can you spell it for me?", "the word is {w}. How is it spelled?",
            "the word is {w}. What are its letters?", "I must write {w}. How do I spell it?", "do I spell {w} right? Show me.",
            "I forgot how to spell {w}.", "spell this: {w}.", "spell this word: {w}.", "if I write {w}, which letters do I write?",
            "what are the letters of {w}?", "what are all the letters in {w}, one by one?", "letters of {w}?",
        ),
        do=(
            "spell {w}", "spell the word {w}", "spell out {w}", "write {w} letter by letter", "say {w} letter by letter",
            "write {w} one letter at a time", "break {w} into letters", "break the word {w} into its letters",
            "list the letters of {w}", "list all letters in {w}", "name the letters of {w}", "name each letter of {w}",
            "name the letters of {w}, one by one", "take {w} apart into letters", "put the letters of {w} in a row",
            "say the letters of {w}", "write out all the letters of {w}", "write down each letter of {w}",
        ),
        thing=(
            "the spelling of {w}", "the right spelling of {w}", "the spelling of the word {w}", "each letter of {w}",
            "every letter of {w}", "the way to spell {w}", "the way {w} is written",
        ),
        know=(
            "how to spell {w}", "how you spell {w}", "how {w} is spelled", "how {w} is written", "how to write {w}",
            "which letters are in {w}", "what letters make up {w}", "how to spell the word {w}",
        ),
    ),
    "count": Phrases(
        whole=(
            "how many {l} are in {w}?", "how many {l} are there in {w}?", "how many {l} does {w} have?",
            "how many {l} do you see in {w}?", "how many {l} do you find in {w}?", "how many {l} has {w} got?",
            "how many times is {l} in {w}?", "how many times does {l} come in {w}?", "how many times does {w} have {l}?",
            "how many times is the letter {l} in {w}?", "how many times does the letter {l} appear in {w}?",
            "how many letters {l} are in {w}?", "how many letters {l} are in the word {w}?", "how often is {l} in {w}?",
            "how often do you see {l} in {w}?", "how often is the letter {l} in the word {w}?", "how often does {w} have {l}?",
            "how often does the letter {l} appear in {w}?", "what number of {l} does {w} have?",
            "the word is {w}. How many {l} are in it?", "the word is {w}. How often is {l} in it?",
            "look at {w}. How often do you see {l}?", "look at {w}. How many {l} are there?",
            "take the word {w}. How many {l} are in it?", "look for {l} in {w}. How many are there?",
            "in {w}, how many {l} are there?", "in the word {w}, how often is the letter {l}?",
            "in {w}, how many times do you see {l}?", "of all letters in {w}, how many are {l}?",
            "how many of the letters in {w} are {l}?", "if you spell {w}, how many {l} do you get?",
            "if I write {w}, how many {l} do I write?", "how many {l} when I write {w}?", "does {w} have {l}? How many?",
            "I want to write {w}. How many times do I need the letter {l}?", "{w} has how many {l} in it?",
            "{w}: how many {l}?", "how many {l}? The word is {w}.",
        ),
        do=(
            "count {l} in {w}", "count the {l} in {w}", "count the letter {l} in {w}", "count the letters {l} in the word {w}",
            "count how many {l} are in {w}", "count how often {l} is in {w}", "count every {l} in {w}", "count all {l} in {w}",
            "find all {l} in {w} and count them", "spell {w} and count the {l}", "look at {w} and count the {l}",
        ),
        thing=(
            "the number of {l} in {w}", "the count of {l} in {w}", "the number of {l} in the word {w}",
            "the number of times {l} appears in {w}", "the number of letters {l} in {w}",
        ),
        know=(
            "how many {l} are in {w}", "how many {l} {w} has", "how many {l} there are in {w}", "how often {l} is in {w}",
            "how often {w} has the letter {l}", "how many times {l} is in {w}", "how often the letter {l} appears in {w}",
        ),
    ),
    "first-letter": Phrases(
        whole=(
            "which letter is first in {w}?", "what letter does {w} start with?", "which letter does {w} start with?",
            "what letter does {w} begin with?", "what does {w} start with?", "with which letter does {w} begin?",
            "with which letter does {w} start?", "which letter does {w} begin with?", "how does {w} begin?", "how does {w} start?",
            "the word is {w}. What is its first letter?", "the word is {w}. How does it begin?",
            "the word {w} begins with which letter?", "the word {w} starts with what letter?", "what comes first in {w}?",
        ),
        do=("name the first letter of {w}", "say the first letter of the word {w}", "say how {w} starts"),
        thing=(
            "the first letter of {w}", "the first letter in {w}", "the letter that {w} starts with",
            "the letter that {w} begins with", "the letter at the start of {w}",
        ),
        know=("which letter {w} starts with", "what letter {w} begins with", "how {w} starts", "which letter is first in {w}"),
    ),
    "last-letter": Phrases(
        whole=(
            "which letter is last in {w}?", "what letter does {w} end with?", "which letter does {w} end with?",
            "what letter does {w} end in?", "what does {w} end with?", "with which letter does {w} end?",
            "which letter does {w} end in?", "how does {w} end?", "the word is {w}. What is its last letter?",
            "the word is {w}. How does it end?", "the word {w} ends with which letter?", "what comes last in {w}?",
            "the word {w} ends in what letter?",
        ),
        do=("name the last letter of {w}", "say the last letter of the word {w}", "say how {w} ends"),
        thing=(
            "the last letter of {w}", "the last letter in {w}", "the letter that {w} ends with",
            "the letter that {w} ends in", "the letter at the end of {w}",
        ),
        know=("which letter {w} ends with", "what letter {w} ends in", "how {w} ends", "which letter is last in {w}"),
    ),
    "word-length": Phrases(
        whole=(
            "how many letters are in {w}?", "how many letters are there in {w}?", "how many letters does {w} have?",
            "how many letters are in the word {w}?", "how long is {w}?", "how long is the word {w}?",
            "the word is {w}. How many letters does it have?", "the word is {w}. How long is it?",
            "what length does the word {w} have?", "in {w}, how many letters are there?", "{w} has how many letters?",
            "if I write {w}, how many letters do I write?", "how many letters when I write {w}?",
        ),
        do=(
            "count the letters in {w}", "count the letters of {w}", "count all letters of {w}", "measure the length of {w}",
            "count how many letters {w} has",
        ),
        thing=("the length of {w}", "the length of the word {w}", "the number of letters in {w}", "the number of letters of {w}"),
        know=("how many letters {w} has", "how many letters are in {w}", "how long {w} is", "how long the word {w} is"),
    ),
}

STORIES = {
    "who": Phrases(
        whole=(
            "who has the {o}?", "who has the {o} now?", "who owns the {o}?", "who owns the {o} now?", "who holds the {o}?",
            "who has got the {o}?", "whose is the {o}?", "whose {o} is it now?", "at the end, who has the {o}?",
            "who has the {o} at the end?", "who is it that has the {o}?", "now who owns the {o}?",
        ),
        do=("name the owner of the {o}", "say who has the {o}"),
        thing=("the owner of the {o}", "the one who has the {o}"),
        know=("who has the {o}", "who owns the {o}", "who has the {o} now", "whose the {o} is"),
    ),
    "what": Phrases(
        whole=(
            "what does {n} have?", "what does {n} have now?", "what does {n} own?", "what has {n} got?", "what has {n} got now?",
            "what thing does {n} have?", "which thing does {n} have?", "what is with {n}?", "what does {n} hold?",
            "what does {n} have at the end?", "at the end, what does {n} have?", "which thing does {n} own now?",
            "what is it that {n} has?", "now what does {n} own?",
        ),
        do=("name the thing that {n} has", "say what {n} has"),
        thing=("the thing that {n} has", "the thing that {n} owns"),
        know=("what {n} has", "what {n} owns", "what {n} has now", "which thing {n} has"),
    ),
    "where": Phrases(
        whole=(
            "where is {n}?", "where is {n} now?", "where can I find {n}?", "where did {n} go?", "where do I find {n} now?",
            "in which place is {n}?", "what place is {n} in?", "which place is {n} in now?", "where is {n} at the end?",
            "at the end, where is {n}?", "where must I look for {n}?", "where is it that {n} is?", "now in which place is {n}?",
        ),
        do=("name the place of {n}", "say where {n} is"),
        thing=("the place where {n} is", "the place of {n}"),
        know=("where {n} is", "where {n} is now", "where {n} went", "in which place {n} is", "where I can find {n}"),
    ),
    "tell": Phrases(
        whole=("do you have a story about {n} and a {o}?", "tell me about {n} and a {o} in a story.", "a story with {n} and a {o}?"),
        do=(
            "tell me a story about {n} and a {o}", "tell a story with {n} and a {o}", "write a story about {n} and a {o}",
            "make up a story about {n} and a {o}", "write a short story with {n} and a {o}", "tell a short story about {n} and a {o}",
        ),
        thing=("a story about {n} and a {o}", "a short story with {n} and a {o}"),
    ),
}

SAYING = {
    "echo": Phrases(
        whole=(
            "say after me: {x}.", "repeat after me: {x}.", "say this: {x}.", "repeat this: {x}.", "say it again: {x}.",
            "say it after me: {x}.", "I say {x}. What do I say?", "I said {x}. What did I say?", "write this down: {x}.",
            "let me hear {x}.", "now you say {x}.", "what I say is {x}. What do I say?", "repeat the words: {x}.",
        ),
        do=("say {x}", "repeat {x}", "write {x}", "copy {x}", "say the words {x}", "repeat after me: {x}", "say this: {x}"),
    ),
}

FACTS = {
    "fact-color": Phrases(
        whole=("what color is {x}?", "which color is {x}?", "what color does {x} have?", "which color does {x} have?",
               "which color do you see on {x}?", "of what color is {x}?"),
        thing=("the color of {x}", "the color that {x} has"),
        know=("what color {x} is", "which color {x} has"),
    ),
    "fact-sound": Phrases(
        whole=("what sound does {x} make?", "which sound does {x} make?", "what noise does {x} make?", "how does {x} sound?",
               "what do you hear from {x}?", "which noise do you hear from {x}?"),
        thing=("the sound of {x}", "the sound that {x} makes"),
        know=("what sound {x} makes", "how {x} sounds"),
    ),
    "fact-young": Phrases(
        whole=("what is the young of {x} called?", "what do you call the young of {x}?", "what is the baby of {x} called?",
               "what do you call the baby of {x}?", "how do you call the young of {x}?", "which name has the baby of {x}?"),
        thing=("the young of {x}", "the name for the young of {x}"),
        know=("what the young of {x} is called", "what you call the baby of {x}"),
    ),
    "fact-opposite": Phrases(
        whole=("which word is the opposite of {x}?", "what word means the opposite of {x}?", "the opposite of {x} is which word?",
               "what do you call the opposite of {x}?", "say the opposite: {x}."),
        thing=("the opposite of {x}", "a word that is the opposite of {x}"),
        know=("what the opposite of {x} is", "which word is the opposite of {x}"),
    ),
    "fact-tool": Phrases(
        whole=("what do you need to {x}?", "what do you use to {x}?", "which tool do you need to {x}?",
               "what tool do you use to {x}?", "with what do you {x}?", "I want to {x}. What do I need?", "what is used to {x}?",
               "if I want to {x}, what do I use?"),
        thing=("the tool to {x}", "what I need to {x}"),
        know=("what you use to {x}", "which tool you need to {x}"),
    ),
    "fact-home": Phrases(
        whole=("where does {x} live?", "what is the home of {x} called?", "where is the home of {x}?", "in what does {x} live?",
               "where do you find {x}?", "what place is home to {x}?"),
        thing=("the home of {x}", "the place where {x} lives"),
        know=("where {x} lives", "what the home of {x} is"),
    ),
    "fact-kind": Phrases(
        whole=("what kind of thing is {x}?", "what kind of thing do we call {x}?", "{x} is what kind of thing?",
               "to which kind does {x} belong?", "which kind of thing is {x}?", "what sort of thing is {x}?"),
        thing=("the kind of {x}", "the kind that {x} belongs to"),
        know=("what kind of thing {x} is", "which kind {x} belongs to"),
    ),
    "fact-legs": Phrases(
        whole=("how many legs does {x} have?", "how many legs has {x} got?", "on how many legs does {x} walk?",
               "how many legs are on {x}?", "what number of legs does {x} have?", "how many legs are there on {x}?"),
        thing=("the number of legs of {x}", "the number of legs that {x} has"),
        know=("how many legs {x} has", "on how many legs {x} walks"),
    ),
    "fact-next-time": Phrases(
        whole=("what comes after {x}?", "what is next after {x}?", "what follows {x}?", "which one comes after {x}?",
               "after {x}, what comes next?", "what is after {x}?", "when {x} is over, what comes next?"),
        thing=("the one after {x}", "the one that follows {x}"),
        know=("what comes after {x}", "which one follows {x}"),
    ),
    "fact-job": Phrases(
        whole=("whose job is it to {x}?", "who is there to {x}?", "which worker is there to {x}?", "who do you call to {x}?",
               "what do you call the worker to {x}?", "whose work is it to {x}?", "to {x} is the job of whom?"),
        thing=("the worker to {x}", "the one whose job it is to {x}"),
        know=("whose job it is to {x}", "which worker you call to {x}"),
    ),
    "fact-plural": Phrases(
        whole=("what is more than one {x} called?", "how do you say two of {x}?", "what do you call more than one {x}?",
               "which word is the plural of {x}?", "what word means more than one {x}?", "one {x}, two what?"),
        thing=("the plural of {x}", "the word for more than one {x}"),
        know=("what the plural of {x} is", "what more than one {x} is called"),
    ),
}
# fmt: on
KINDS = NUMBERS | LETTERS | STORIES | SAYING | FACTS


@dataclass(frozen=True)
class Wordings:
    """The ways to ask one kind of question: whole sentences and framed phrases to train on, and those held out."""

    whole: tuple[str, ...]
    framed: tuple[str, ...]
    held: tuple[str, ...]


@cache
def wordings(kind: str) -> Wordings:
    """Returns the ways to ask one kind of question; a hash, not somebody, chooses what is held out.

    Wordings that differ in spaces and marks only stay together, and none is held that a trained one contains.
    """
    phrases = KINDS[kind]
    pool = dict.fromkeys((*phrases.whole, *phrases.framed()))
    bared = {wording: bare(wording) for wording in pool}
    everything = "\n".join(dict.fromkeys(bared.values()))
    held: set[str] = set()
    for wording in sorted(pool, key=lambda wording: (hash64(f"held/wording/{bared[wording]}"), wording)):
        if len(held) >= max(LEAST_HELD, round(len(pool) / HELD_OF)):
            break
        if everything.count(bared[wording]) == 1:
            held |= {other for other in pool if bared[other] == bared[wording]}
    return Wordings(
        whole=tuple(w for w in phrases.whole if w not in held),
        framed=tuple(w for w in pool if w not in held and w not in phrases.whole),
        held=tuple(w for w in pool if w in held),
    )


def bare(wording: str) -> str:
    """Returns the wording in small letters without spaces, marks at its end, and what `asking.dressed` may add."""
    return re.sub(r"(the)?(word|letters?)(?=\{)", "", wording.lower().replace(" ", "")).rstrip("?.!=")
