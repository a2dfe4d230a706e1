"""Ways to ask about numbers, letters, stories and facts. A hash keeps an eighth of each kind for testing."""

from __future__ import annotations

import re

from nanochat_cli.core.data.tinyworld.rng import hash64

HELD_OF = 8  # one wording in so many is never trained on, and three of each kind at least
LEAST_HELD = 3

# fmt: off
Wordings = dict[str, tuple[str, ...]]

NUMBERS: Wordings = {
    "add": (
        "What is {a} + {b}?", "What is {a}+{b}?", "{a}+{b}", "{a} + {b}", "{a} + {b} = ?", "{a}+{b}=",
        "What is {a} plus {b}?", "How much is {a} plus {b}?", "How much is {a} + {b}?", "{a} plus {b}",
        "Add {a} and {b}.", "Add {a} to {b}.", "Can you add {a} and {b}?", "Work out {a} + {b}.", "Calculate {a}+{b}.",
        "Compute {a} plus {b}.", "What is the sum of {a} and {b}?", "Find the sum of {a} and {b}.",
        "Give me the sum of {a} and {b}.", "Tell me {a} plus {b}.", "What do you get if you add {a} and {b}?",
        "If I add {a} and {b}, what do I get?", "How many are {a} and {b} together?", "Put {a} and {b} together.",
        "I have {a} {s} and get {b} more. How many {s} do I have?", "I want to add {a} and {b}.",
        "There are {a} {s}. Then {b} more come. How many {s} are there?", "I need the sum of {a} and {b}.",
        "One box has {a} {s}, the other has {b}. How many {s} are in both?", "I would like {a} plus {b}.",
        "{p} has {a} {s} and gets {b} more. How many {s} does {p} have now?", "I must add {a} and {b}.",
        "{p} has {a} {s}. {p} buys {b} more. How many {s} is that?", "Do you know {a} + {b}?",
        "{p} has {a} {s}, I have {b}. How many {s} do we have?", "Say what {a} and {b} make.", "I need {a}+{b}.",
        "I need to know {a} + {b}.", "I would like to know {a} plus {b}.", "I want {a} + {b}.",
        "We want to know the sum of {a} and {b}.", "Let me know {a}+{b}.", "Do you know {a}+{b}?",
        "Please find {a}+{b}.", "Say what {a} + {b} is.", "My question is {a}+{b}.",
        "Anna has {a} pens and gets {b} more. How many pens does she have now?",
        "Max has {a} coins and wins {b} more. How many coins does Max have?",
        "Tina has {a} cards and buys {b} more. How many cards has she now?",
        "Leo has {a} stones and takes {b} more. How many stones does he have?",
        "Ruby finds {a} nuts, then she finds {b} more. How many nuts does she find?",
        "Sam has {a} books and Dan has {b} books. How many books do they have?",
        "We see {a} cows and {b} sheep. How many animals do we see?",
        "There were {a} eggs and now there are {b} more. How many eggs are there now?", "What number is {a} plus {b}?",
        "Could you work out the sum {a} + {b}?", "How much do {a} and {b} make together?", "I want to know {a}+{b}.",
        "Ben has {a} shells and finds {b} more. How many shells does he have now?", "What does {a} plus {b} make?",
        "Please calculate the sum of {a} and {b}.", "Give me {a} + {b}.",
        "If you have {a} and get {b} more, how many is that?",
        "Kate has {a} nuts and picks {b} more. How many nuts has she got now?", "What is {b} more than {a}?",
        "Tell me how much I get if I put {a} and {b} together.", "Can I have the sum of {a} and {b}, please?",
        "I have {a} and I want to add {b}. How much is that?",
        "{p} finds {a} {s} and I find {b} {s}. How many {s} did we find together?",
        "Could you tell me what number you get if you add {b} to {a}?", "What do {a} and {b} make?",
        "{a} and {b} is how much?", "How much is {a} and {b}?", "Sum of {a} and {b}?",
        "The sum of {a} and {b}, please.", "Please add {a} and {b}.", "Please add {b} to {a}.",
        "Could you add {a} and {b}?", "Could you add {b} to {a} for me?",
        "If you put {a} and {b} together, what do you get?", "Start with {a} and add {b}.",
        "Start with {a}. Add {b}. What do you get?", "I have {a} and you have {b}. How many do we have together?",
        "First {a}, then {b} more. How many is that?", "Take {a} and add {b} to it.",
        "What number do {a} and {b} make?", "Find {a} + {b}.", "Solve {a}+{b}.", "{a} more than {b} is what?",
        "How many is {b} more than {a}?",
        "There are {a} {s} in one box and {b} in another. How many are there in all?",
        "{p} had {a} {s} and then found {b}. How many {s} has {p} now?",
        "I read {a} pages today and {b} before. How many pages is that?", "Together, how much are {a} and {b}?",
        "Let us add {a} and {b}.", "Help me add {a} and {b}.",
    ),
    "sub": (
        "What is {a} - {b}?", "What is {a}-{b}?", "{a}-{b}", "{a} - {b}", "{a} - {b} = ?", "{a}-{b}=",
        "What is {a} minus {b}?", "How much is {a} minus {b}?", "How much is {a} - {b}?", "{a} minus {b}",
        "Take {b} from {a}.", "Take {b} away from {a}.", "Subtract {b} from {a}.", "Can you take {b} from {a}?",
        "What is {a} take away {b}?", "Work out {a} - {b}.", "Calculate {a}-{b}.", "Compute {a} minus {b}.",
        "What is the difference of {a} and {b}?", "Find the difference between {a} and {b}.", "Tell me {a} minus {b}.",
        "What do you get if you take {b} from {a}?", "If I subtract {b} from {a}, what do I get?",
        "How much is left if you take {b} away from {a}?", "I have {a} {s} and give away {b}. How many {s} are left?",
        "I want to take {b} from {a}.", "There are {a} {s}. Then {b} go away. How many {s} are left?",
        "I need {a} minus {b}.", "A box has {a} {s}. I take out {b}. How many {s} are left?",
        "I would like {a} minus {b}.", "{p} has {a} {s} and gives away {b}. How many {s} does {p} have now?",
        "I must subtract {b} from {a}.", "{p} has {a} {s}. {p} sells {b}. How many {s} are left?",
        "Do you know {a} - {b}?", "{p} has {a} {s}, I have {b}. How many more {s} does {p} have?",
        "Say what {a} minus {b} makes.", "I need {a}-{b}.", "I need to know {a} - {b}.",
        "I would like to know {a} minus {b}.", "I want {a} - {b}.", "We want to know the difference of {a} and {b}.",
        "Let me know {a}-{b}.", "Do you know {a}-{b}?", "Please find {a}-{b}.", "Say what {a} - {b} is.",
        "My question is {a}-{b}.", "Anna has {a} pens and gives {b} away. How many pens does she have now?",
        "Max has {a} coins and pays {b}. How many coins does Max have now?",
        "Tina has {a} cards and sells {b}. How many cards has she now?",
        "Leo has {a} stones and throws {b} away. How many stones does he have?",
        "Ruby has {a} nuts and eats {b}. How many nuts does she have left?",
        "Sam had {a} books and lost {b}. How many books has he now?",
        "We see {a} cows, then {b} walk off. How many cows are left?",
        "There were {a} eggs and {b} broke. How many eggs are there now?", "If {b} of {a} go away, how many are left?",
        "Out of {a} I take {b}. How much is left?", "What number is {a} minus {b}?",
        "Could you work out the difference {a} - {b}?", "If you take away {b} from {a}, how much is left?",
        "I want to know {a}-{b}.", "Ben has {a} shells and loses {b}. How many shells does he have now?",
        "What does {a} minus {b} make?", "Please calculate {a} minus {b}.", "Give me {a} - {b}.",
        "If you have {a} and lose {b}, how many are left?",
        "Kate has {a} nuts and gives {b} to Dan. How many nuts has she got now?", "How much more is {a} than {b}?",
        "Tell me what is left if I subtract {b} from {a}.",
        "Please work out the difference between {a} and {b} for me.",
        "Start with {a} and take away {b}. What do you get?",
        "There were {a} {s} in the box and {p} takes {b}. How many {s} are left in it?",
        "I have {a} and I want to take away {b}. How much do I have left?", "What do you get from {a} minus {b}?",
        "Please take {b} from {a}.", "Please subtract {b} from {a}.", "Could you subtract {b} from {a}?",
        "Could you take {b} away from {a} for me?", "Start with {a}. Take away {b}. What is left?",
        "Start with {a} and subtract {b}.", "The difference of {a} and {b}, please.",
        "Difference between {a} and {b}?", "How much more than {b} is {a}?", "How many more is {a} than {b}?",
        "How much less than {a} is {b}?", "How much less is {b} than {a}?", "What is left of {a} if I take {b}?",
        "If I had {a} and lost {b}, what would be left?", "{a} less {b}", "What is {a} less {b}?", "Find {a} - {b}.",
        "Solve {a}-{b}.", "Help me take {b} from {a}.",
        "There are {a} {s} in a box. {p} takes {b} of them. How many are left?",
        "{p} had {a} {s} and lost {b}. How many {s} has {p} now?",
        "I have {a} {s} and you have {b}. How many more do I have?",
        "I had {a} {s} and gave you {b}. How many {s} do I have left?",
        "We had {a} {s} and used {b}. How many are left?", "From {a}, take {b}.", "Let us take {b} from {a}.",
    ),
    "add-three": (
        "What is {a} + {b} + {c}?", "What is {a}+{b}+{c}?", "{a}+{b}+{c}", "{a} + {b} + {c}",
        "What is {a} plus {b} plus {c}?", "How much is {a} + {b} + {c}?", "Add {a}, {b} and {c}.",
        "Can you add {a}, {b} and {c}?", "Work out {a} + {b} + {c}.", "Calculate {a}+{b}+{c}.",
        "What is the sum of {a}, {b} and {c}?", "Find the sum of {a}, {b} and {c}.",
        "How many are {a}, {b} and {c} together?", "Tell me {a} plus {b} plus {c}.", "I want to add {a}, {b} and {c}.",
        "I need the sum of {a}, {b} and {c}.", "I would like {a} + {b} + {c}.",
        "What number is {a} plus {b} plus {c}?", "How much do {a}, {b} and {c} make together?",
        "I want to know {a}+{b}+{c}.",
    ),
    "number-after": (
        "What number comes after {n}?", "Which number comes after {n}?", "What comes after {n}?",
        "What is the number after {n}?", "What is the next number after {n}?", "Name the number after {n}.",
        "Tell me the number after {n}.", "Which number follows {n}?", "What follows {n}?", "Count on from {n}.",
        "I count and say {n}. What do I say next?", "After {n}, what number is next?",
        "Give me the next number after {n}.", "I want the number after {n}.", "Say the number that is after {n}.",
        "Give me the number that comes after {n}.", "Which is the next number after {n}?",
        "When I count, what follows {n}?",
    ),
    "number-before": (
        "What number comes before {n}?", "Which number comes before {n}?", "What comes before {n}?",
        "What is the number before {n}?", "What is the last number before {n}?", "Name the number before {n}.",
        "Tell me the number before {n}.", "Which number is before {n}?", "What is just before {n}?",
        "Count back from {n}.", "I count back and say {n}. What do I say next?", "Before {n}, what number is there?",
        "Give me the last number before {n}.", "I want the number before {n}.", "Say the number that is before {n}.",
        "Give me the number that comes before {n}.", "Which is the number just before {n}?",
        "When I count back, what comes after {n}?",
    ),
}

LETTERS: Wordings = {
    "spell": (
        "Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "How do I spell {w}?", "How is {w} spelled?",
        "How is the word {w} spelled?", "Can you spell {w}?", "Can you spell the word {w}?",
        "Tell me how to spell {w}.", "Show me how to spell {w}.", "Give me the spelling of {w}.",
        "What is the spelling of {w}?", "Write {w} letter by letter.", "Say {w} letter by letter.",
        "Which letters spell {w}?", "What letters are in {w}?", "List the letters of {w}.",
        "Name the letters of {w}, one by one.", "Break {w} into letters.", "How do we write the word {w}?",
        "I need to spell {w}.", "I want the spelling of {w}.", "I must write {w}. How do I spell it?",
        "Say how to spell {w}.", "I want to spell {w}. How do I do it?", "Could you spell out {w}?",
        "What are the letters of {w}?", "Show me the spelling of the word {w}.",
        "Write the word {w} one letter at a time.", "Please spell the word {w} for me.", "Tell me the letters of {w}.",
        "In what way is {w} spelled?", "What is {w}, letter by letter?", "Do you know how to spell {w}?",
        "Letters of {w}?", "How should I spell {w}?", "Teach me to spell {w}.", "What letters make {w}?",
        "Let me see the letters of {w}.", "Help me spell {w}.", "How is {w} written?",
        "I do not know how to spell {w}.", "Take {w} apart into letters.", "Put the letters of {w} in a row.",
        "{w}, one letter at a time.", "How do you write {w}, letter by letter?",
        "Please write out all the letters of {w}.", "I would like to know how {w} is spelled.",
        "What letters do I need to write {w}?", "The word is {w}. Can you spell it for me?",
        "Can I get the spelling of {w}, please?", "Please spell {w}.", "Could you spell {w}?",
        "Would you spell {w} for me?", "Can you tell me how to spell {w}?", "Do I spell {w} right? Show me.",
        "Say the letters of {w}.", "Say the letters of {w} one after the other.", "Give me the letters of {w}.",
        "Give me all letters of {w}, one by one.", "The letters of {w}, please.", "The spelling of {w}, please.",
        "How is it spelled: {w}?", "Spell this word: {w}.", "Spell this: {w}.", "Write out {w} letter by letter.",
        "Write {w} with one letter at a time.", "Tell me each letter of {w}.", "Which letters make up {w}?",
        "I forgot how to spell {w}.", "Let us spell {w}.", "What is the right spelling of {w}?",
        "How do people spell {w}?",
    ),
    "count": (
        "How many {l} are in {w}?", "How many {l} are there in {w}?", "How many {l} does {w} have?",
        "How many times is {l} in {w}?", "How many times does {l} come in {w}?",
        "How many times is the letter {l} in {w}?", "How many times does the letter {l} appear in {w}?",
        "How many letters {l} are in {w}?", "How many letters {l} are in the word {w}?", "Count {l} in {w}.",
        "Count the {l} in {w}.", "Count the letter {l} in {w}.", "Count the letters {l} in the word {w}.",
        "Count how many {l} are in {w}.", "Count how many times {l} is in {w}.", "How often is {l} in {w}?",
        "How often do you see {l} in {w}?", "How often is the letter {l} in the word {w}?",
        "What is the count of {l} in {w}?", "What is the number of {l} in {w}?", "Give me the number of {l} in {w}.",
        "Find the number of {l} in the word {w}.", "Tell me how many {l} are in {w}.",
        "Tell me how often {l} is in {w}.", "Number of {l} in {w}?", "The word is {w}. How many {l} are in it?",
        "Look at {w}. How often do you see {l}?", "In {w}, how many {l} are there?",
        "In the word {w}, how often is the letter {l}?", "I want the number of {l} in {w}.",
        "I need to count {l} in {w}.", "Say how many {l} are in {w}.", "How often does the letter {l} appear in {w}?",
        "Can you count the {l} in {w}?", "In the word {w}, how many times do you see {l}?",
        "What number of {l} does {w} have?", "Say how many times the letter {l} is in the word {w}.",
        "Do you know how many {l} are in {w}?", "Please count how often {l} is in {w}.",
        "What is the number of times {l} appears in {w}?", "How many of the letters in {w} are {l}?",
        "Tell me the number of {l} in the word {w}.", "Look at the word {w} and count all the {l}.",
        "If you spell {w}, how many {l} do you get?", "I would like to know how often {w} has the letter {l}.",
        "{w} has how many {l} in it?", "Can you find all the {l} in {w} and tell me how many there are?",
        "I want to write {w}. How many times do I need the letter {l}?", "Please count the {l} in {w}.",
        "Could you count the {l} in {w}?", "Would you count how many {l} {w} has?", "How many {l} do you see in {w}?",
        "How many {l} do you find in {w}?", "How many {l} can you find in the word {w}?",
        "Find how many {l} are in {w}.", "Find all {l} in {w} and count them.",
        "Can you tell me how many {l} {w} has?", "Let us count the {l} in {w}.", "Count each {l} in {w}.",
        "Count every {l} that is in {w}.", "Take the word {w}. How many {l} are in it?",
        "Spell {w} and count the {l}.", "Does {w} have {l}? How many?", "How many {l} when I write {w}?",
        "If I write {w}, how many {l} do I write?", "The number of {l} in {w}, please.",
        "I would like to know how many {l} are in {w}.", "Help me count {l} in {w}.",
        "Show me how many {l} are in {w}.", "Look for {l} in {w}. How many are there?",
        "Of all letters in {w}, how many are {l}?",
    ),
    "first-letter": (
        "What is the first letter of {w}?", "What is the first letter in {w}?", "Which letter is first in {w}?",
        "What letter does {w} start with?", "Which letter does {w} start with?", "What does {w} start with?",
        "With which letter does {w} begin?", "Which letter does {w} begin with?", "How does {w} begin?",
        "Name the first letter of {w}.", "Tell me the first letter of {w}.", "First letter of {w}?",
        "Give me the first letter of the word {w}.", "Find the first letter of {w}.",
        "I want the first letter of {w}.", "The word is {w}. What is its first letter?",
        "Which is the letter that {w} begins with?", "What is the letter that {w} starts with?",
        "The word {w} begins with which letter?", "Say the first letter of the word {w}.",
    ),
    "last-letter": (
        "What is the last letter of {w}?", "What is the last letter in {w}?", "Which letter is last in {w}?",
        "What letter does {w} end with?", "Which letter does {w} end with?", "What does {w} end with?",
        "With which letter does {w} end?", "Which letter does {w} end in?", "How does {w} end?",
        "Name the last letter of {w}.", "Tell me the last letter of {w}.", "Last letter of {w}?",
        "Give me the last letter of the word {w}.", "Find the last letter of {w}.", "I want the last letter of {w}.",
        "The word is {w}. What is its last letter?", "Which is the letter at the end of {w}?",
        "What is the letter that {w} ends with?", "The word {w} ends with which letter?",
        "Say the last letter of the word {w}.",
    ),
    "word-length": (
        "How many letters are in {w}?", "How many letters are there in {w}?", "How many letters does {w} have?",
        "How many letters are in the word {w}?", "How long is {w}?", "How long is the word {w}?",
        "What is the length of {w}?", "Give me the length of {w}.", "Find the length of the word {w}.",
        "Count the letters in {w}.", "Count all letters of {w}.", "Tell me how many letters {w} has.",
        "Tell me how long {w} is.", "The word is {w}. How many letters does it have?", "I want the length of {w}.",
        "Say how many letters {w} has.", "Can you count the letters of {w}?", "What length does the word {w} have?",
        "In {w}, how many letters are there?",
    ),
}

STORIES: Wordings = {
    "who": (
        "Who has the {o}?", "Who has the {o} now?", "Who owns the {o}?", "Who owns the {o} now?",
        "Tell me who has the {o}.", "Who is the owner of the {o}?", "Who holds the {o}?", "Who has got the {o}?",
        "Whose is the {o}?", "Whose {o} is it now?", "At the end, who has the {o}?", "Who has the {o} at the end?",
        "Can you tell me who has the {o} now?", "Who is it that has the {o}?", "Now who owns the {o}?",
    ),
    "what": (
        "What does {n} have?", "What does {n} have now?", "What does {n} own?", "What has {n} got?",
        "What thing does {n} have?", "Tell me what {n} has.", "Which thing does {n} have?", "What is with {n}?",
        "What does {n} hold?", "What does {n} have at the end?", "At the end, what does {n} have?",
        "Which thing does {n} own now?", "Can you tell me what {n} has now?", "What is it that {n} has?",
        "Now what does {n} own?",
    ),
    "where": (
        "Where is {n}?", "Where is {n} now?", "Where can I find {n}?", "In which place is {n}?",
        "Tell me where {n} is.", "What place is {n} in?", "Where did {n} go?", "Where do I find {n} now?",
        "Which place is {n} in now?", "Where is {n} at the end?", "At the end, where is {n}?",
        "Where must I look for {n}?", "Can you tell me where {n} is now?", "Where is it that {n} is?",
        "Now in which place is {n}?",
    ),
    "tell": (
        "Tell me a story about {n} and a {o}.", "Tell a story about {n} and a {o}.",
        "Tell a story with {n} and a {o}.", "Can you tell me a story about {n} and a {o}?",
        "Write a story about {n} and a {o}.", "Please tell me about {n} and a {o}.",
        "I want a story about {n} and a {o}.", "Make up a story about {n} and a {o}.",
        "Give me a story about {n} and a {o}.", "Tell me a short story with {n} and a {o}.",
        "A story about {n} and a {o}, please.", "Do you know a story about {n} and a {o}?",
        "Could you write a short story with {n} and a {o}?", "I want to hear a story about {n} and a {o}.",
        "Tell me about {n} and a {o} in a story.",
    ),
}

SAYING: Wordings = {
    "echo": (
        "Say {x}.", "Repeat {x}.", "Say after me: {x}.", "Repeat after me: {x}.", "Please say {x}.", "Write {x}.",
        "Can you say {x}?", "Can you repeat {x}?", "Say this: {x}.", "Repeat this: {x}.", "Say it again: {x}.",
        "I say {x}. What do I say?", "Write this down: {x}.", "Copy {x}.", "I want you to say {x}.",
        "Would you say {x}?", "Let me hear {x}.", "Now you say {x}.",
    ),
}

FACTS: Wordings = {
    "fact-color": (
        "What color is {x}?", "Which color is {x}?", "What is the color of {x}?", "Tell me the color of {x}.",
        "What color does {x} have?", "Name the color of {x}.", "Which color does {x} have?", "Color of {x}?",
        "Can you tell me what color {x} is?", "Which color do you see on {x}?", "Give me the color of {x}.",
    ),
    "fact-sound": (
        "What sound does {x} make?", "Which sound does {x} make?", "What is the sound of {x}?",
        "Tell me the sound of {x}.", "What noise does {x} make?", "How does {x} sound?", "Name the sound of {x}.",
        "What do you hear from {x}?", "Can you tell me what sound {x} makes?", "Which noise do you hear from {x}?",
        "Give me the sound of {x}.",
    ),
    "fact-young": (
        "What is the young of {x} called?", "What do you call the young of {x}?", "What is the baby of {x} called?",
        "What do you call the baby of {x}?", "Name the young of {x}.", "Tell me the name for the young of {x}.",
        "How do you call the young of {x}?", "What is the young of {x}?",
        "Can you tell me what the young of {x} is called?", "Which name has the baby of {x}?",
        "Give me the name of the young of {x}.",
    ),
    "fact-opposite": (
        "What is the opposite of {x}?", "Tell me the opposite of {x}.", "Name the opposite of {x}.",
        "Which word is the opposite of {x}?", "What word means the opposite of {x}?", "Opposite of {x}?",
        "Do you know the opposite of {x}?", "Find the opposite of {x}.", "Can you tell me the opposite of {x}?",
        "Give me a word that is the opposite of {x}.", "The opposite of {x} is which word?",
    ),
    "fact-tool": (
        "What do you need to {x}?", "What do you use to {x}?", "Which tool do you need to {x}?",
        "What tool do you use to {x}?", "With what do you {x}?", "Tell me what I need to {x}.",
        "I want to {x}. What do I need?", "What is used to {x}?", "Can you tell me what you use to {x}?",
        "Which tool is used to {x}?", "If I want to {x}, what do I use?",
    ),
    "fact-home": (
        "What is the home of {x}?", "Where does {x} live?", "What is the home of {x} called?",
        "Tell me the home of {x}.", "Name the home of {x}.", "Where is the home of {x}?", "In what does {x} live?",
        "Where do you find {x}?", "Can you tell me where {x} lives?", "Which is the home of {x}?",
        "What place is home to {x}?",
    ),
    "fact-kind": (
        "What kind of thing is {x}?", "What is the kind of {x}?", "What kind of thing do we call {x}?",
        "{x} is what kind of thing?", "Tell me what kind of thing {x} is.", "Name the kind of {x}.",
        "To which kind does {x} belong?", "Which kind of thing is {x}?", "Can you tell me what kind of thing {x} is?",
        "Which kind does {x} belong to?", "What sort of thing is {x}?",
    ),
    "fact-legs": (
        "How many legs does {x} have?", "How many legs has {x} got?", "On how many legs does {x} walk?",
        "Tell me how many legs {x} has.", "What is the number of legs of {x}?", "How many legs are on {x}?",
        "Count the legs of {x}.", "Name the number of legs of {x}.", "Can you tell me how many legs {x} has?",
        "What number of legs does {x} have?", "Give me the number of legs of {x}.",
    ),
    "fact-next-time": (
        "What comes after {x}?", "What is next after {x}?", "What follows {x}?", "Tell me what comes after {x}.",
        "Which one comes after {x}?", "Name the one after {x}.", "After {x}, what comes next?", "What is after {x}?",
        "Can you tell me what comes after {x}?", "Which one follows {x}?", "When {x} is over, what comes next?",
    ),
    "fact-job": (
        "Whose job is it to {x}?", "Who is there to {x}?", "Which worker is there to {x}?",
        "What do you call the worker to {x}?", "Tell me whose job it is to {x}.", "Who do you call to {x}?",
        "Name the worker to {x}.", "Whose work is it to {x}?", "Can you tell me whose job it is to {x}?",
        "Which worker do you call to {x}?", "To {x} is the job of whom?",
    ),
    "fact-plural": (
        "What is the plural of {x}?", "What is more than one {x} called?", "Tell me the plural of {x}.",
        "Name the plural of {x}.", "How do you say two of {x}?", "What do you call more than one {x}?",
        "Plural of {x}?", "Which word is the plural of {x}?", "Can you tell me the plural of {x}?",
        "What word means more than one {x}?", "Give me the plural of {x}.",
    ),
}

# fmt: on


def split(wordings: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (those trained on, those held out); nobody chooses which.

    Wordings that differ in spaces and marks only stay together, and none is held that a trained one contains.
    """
    order = sorted(wordings, key=lambda wording: (hash64(f"held/wording/{bare(wording)}"), wording))
    held: set[str] = set()
    for wording in order:
        alike = {other for other in wordings if bare(wording) in bare(other)}
        if len({bare(other) for other in alike}) == 1 and len(held) < max(LEAST_HELD, round(len(wordings) / HELD_OF)):
            held |= alike
    return tuple(w for w in wordings if w not in held), tuple(w for w in wordings if w in held)


def bare(wording: str) -> str:
    """Returns the wording in small letters without spaces, marks at its end, and what `asking.dressed` may add."""
    return re.sub(r"(the)?(word|letters?)(?=\{)", "", wording.lower().replace(" ", "")).rstrip("?.!=")


WORDINGS = {kind: split(pool) for kind, pool in (NUMBERS | LETTERS | STORIES | SAYING | FACTS).items()}
"""Kind -> (trained wordings, held wordings)."""
