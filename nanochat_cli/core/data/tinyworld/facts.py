"""Closed facts of the little world, grouped by relation: pairs of a thing and what is true of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nanochat_cli.core.data.tinyworld.items import Item, Split
from nanochat_cli.core.data.tinyworld.rng import Rng, hash64

HELD_PERCENT = 30  # more than elsewhere, so that at least fifty facts are tested


@dataclass(frozen=True)
class Relation:
    """A label ("Color of"), statements with {x} and {y}, and the pairs (x, y)."""

    name: str
    label: str
    statements: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def pairs_of(text: str) -> tuple[tuple[str, str], ...]:
    """Returns (("grass", "green"), ...) for "grass=green, ..."."""
    return tuple((x.strip(), y.strip()) for x, y in (entry.split("=") for entry in text.split(",")))


RELATIONS = (
    Relation(
        "color",
        "Color of",
        ("The color of {x} is {y}.", "The color {y} is what you see when you look at {x}."),
        pairs_of(
            "grass=green, the sky=blue, snow=white, coal=black, a banana=yellow, a lemon=yellow, a strawberry=red, "
            "a tomato=red, a carrot=orange, a pumpkin=orange, a plum=purple, chocolate=brown, mud=brown, milk=white, "
            "cotton=white, a frog=green, a crow=black, a swan=white, a flamingo=pink, a pig=pink, a fox=red, "
            "a sunflower=yellow, a cucumber=green, a cherry=red, the night=black, a cloud=white, the sea=blue, "
            "rust=brown, salt=white, a lime=green, a chick=yellow, a violet=purple"
        ),
    ),
    Relation(
        "sound",
        "Sound of",
        ("The sound of {x} is a {y}.", "If you hear a {y}, it may be {x}."),
        pairs_of(
            "a dog=bark, a cat=meow, a cow=moo, a duck=quack, a sheep=baa, a horse=neigh, a lion=roar, a bee=buzz, "
            "a frog=croak, a small bird=chirp, a snake=hiss, a wolf=howl, a mouse=squeak, a hen=cluck, "
            "an owl=hoot, a donkey=bray, a turkey=gobble, a crow=caw, a bear=growl, a drum=boom"
        ),
    ),
    Relation(
        "young",
        "Young of",
        ("The young of {x} is a {y}.", "A {y} grows up to be {x}."),
        pairs_of(
            "a dog=puppy, a cat=kitten, a cow=calf, a duck=duckling, a sheep=lamb, a horse=foal, a lion=cub, "
            "a hen=chick, a pig=piglet, a goat=kid, a deer=fawn, a frog=tadpole, a goose=gosling, a kangaroo=joey, "
            "a swan=cygnet"
        ),
    ),
    Relation(
        "opposite",
        "Opposite of",
        ("The opposite of {x} is {y}.", "What is not {x} may be {y}."),
        pairs_of(
            "hot=cold, big=small, up=down, fast=slow, happy=sad, open=closed, wet=dry, old=young, hard=soft, "
            "light=dark, loud=quiet, full=empty, high=low, long=short, near=far, early=late, strong=weak, "
            "clean=dirty, left=right, rich=poor, thick=thin, sweet=sour, inside=outside, above=below, asleep=awake, "
            "true=false, always=never, many=few, front=back, winter=summer, day=night, yes=no"
        ),
    ),
    Relation(
        "tool",
        "Tool to",
        ("To {x} you need a {y}.", "A {y} is what you use to {x}."),
        pairs_of(
            "cut bread=knife, dig a hole=shovel, write a letter=pencil, sweep the floor=broom, paint a wall=brush, "
            "open a lock=key, tell the time=clock, drink soup=spoon, hit a nail=hammer, sew a dress=needle, "
            "draw a line=ruler, comb hair=comb, dry hands=towel, see the stars=telescope, stay dry in rain=coat, "
            "call a friend=phone, cook rice=pot, find the way=map, catch fish=net, cut wood=saw"
        ),
    ),
    Relation(
        "home",
        "Home of",
        ("The home of {x} is a {y}.", "In a {y} you may find {x}."),
        pairs_of(
            "a bird=nest, a bee=hive, a dog=kennel, a horse=stable, a bear=cave, a spider=web, a rabbit=burrow, "
            "a lion=den, a pig=sty, a hen=coop, an ant=hill, a king=castle, a cow=barn, a fish=pond, a car=garage, "
            "a book=library"
        ),
    ),
    Relation(
        "kind",
        "Kind of",
        ("{x} is a kind of {y}.", "One kind of {y} is {x}."),
        pairs_of(
            "carrot=vegetable, onion=vegetable, potato=vegetable, bean=vegetable, peach=fruit, banana=fruit, "
            "cherry=fruit, plum=fruit, rose=flower, tulip=flower, daisy=flower, oak=tree, pine=tree, maple=tree, "
            "sparrow=bird, robin=bird, eagle=bird, salmon=fish, trout=fish, shark=fish, bee=insect, ant=insect, "
            "beetle=insect, hammer=tool, saw=tool, piano=instrument, violin=instrument, trumpet=instrument, "
            "red=color, blue=color, yellow=color, car=vehicle, bus=vehicle, truck=vehicle, dog=animal, horse=animal, "
            "lion=animal, shirt=clothing, sock=clothing, coat=clothing, chair=furniture, table=furniture"
        ),
    ),
    Relation(
        "legs",
        "Legs of",
        ("The number of legs of {x} is {y}.", "With {y} legs it may be {x}."),
        pairs_of(
            "a dog=4, a cat=4, a horse=4, a cow=4, a spider=8, a bee=6, an ant=6, a beetle=6, a hen=2, a duck=2, "
            "an owl=2, a snake=0, a fish=0, a worm=0, a crab=10"
        ),
    ),
    Relation(
        "next-time",
        "Next after",
        ("{y} comes after {x}.", "First comes {x}, then {y}."),
        pairs_of(
            "Monday=Tuesday, Tuesday=Wednesday, Wednesday=Thursday, Thursday=Friday, Friday=Saturday, "
            "Saturday=Sunday, Sunday=Monday, January=February, February=March, March=April, April=May, May=June, "
            "June=July, July=August, August=September, September=October, October=November, November=December, "
            "December=January"
        ),
    ),
    Relation(
        "job",
        "Worker to",
        ("To {x} is the job of a {y}.", "A {y} is there to {x}."),
        pairs_of(
            "bake bread=baker, teach children=teacher, fly planes=pilot, put out fires=firefighter, "
            "grow food=farmer, heal the sick=doctor, fix teeth=dentist, cook meals=cook, sing songs=singer, "
            "paint pictures=painter, bring letters=mailman, fix pipes=plumber, drive a bus=driver, "
            "build houses=builder, sail ships=sailor, dance on stage=dancer"
        ),
    ),
    Relation(
        "plural",
        "Plural of",
        ("One {x}, two {y}.", "The plural of {x} is {y}."),
        pairs_of(
            "foot=feet, mouse=mice, goose=geese, tooth=teeth, child=children, man=men, woman=women, leaf=leaves, "
            "knife=knives, wolf=wolves, box=boxes, baby=babies, bus=buses, fox=foxes, city=cities, cherry=cherries"
        ),
    ),
)

KEYS = tuple((r, x, y) for r in RELATIONS for x, y in r.pairs)


@cache
def keys_for(split: Split) -> tuple[tuple[Relation, str, str], ...]:
    """Returns the facts that training may (or, held, may never) ask about in a question."""
    return tuple(
        key for key in KEYS if (hash64(f"held/fact/{key[0].name}/{key[1]}") % 100 < HELD_PERCENT) == (split == "held")
    )


def item(rng: Rng, split: Split) -> Item:
    """Returns the question for one fact."""
    relation, x, y = rng.pick(keys_for(split))
    return Item(
        family="facts",
        wording=f"fact-{relation.name}",
        slots={"x": x, "y": y},
        worked=bare(relation, x, y),
        answer=y,
    )


def bare(relation: Relation, x: str, y: str) -> str:
    """Returns the fact in the form of the answers: "Color of grass: green."."""
    return f"{relation.label} {x}: {y}."


def told(rng: Rng) -> str:
    """Returns one fact as a sentence, bare, or both; held ones included, for the model must learn what it is asked.

    Both together practise, for every fact, to name it again: the step between a question and its answer.
    """
    relation, x, y = rng.pick(KEYS)
    text = rng.pick(relation.statements).format(x=x, y=y)
    sentence = text[0].upper() + text[1:]
    return (sentence, bare(relation, x, y), f"{sentence} {bare(relation, x, y)}")[(0, 1, 2, 2)[rng.below(4)]]
