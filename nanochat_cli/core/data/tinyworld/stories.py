"""Short stories whose state is tracked: who holds what after every gift, and who is where after every move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat_cli.core.data.tinyworld.items import Item, Split, is_held
from nanochat_cli.core.data.tinyworld.rng import Rng
from nanochat_cli.core.data.tinyworld.words import NAMES, OBJECTS, PLACES

KINDS = ("who", "who-moved", "what", "what-moved", "nothing", "where", "where-moved")
FAMILIES = tuple(f"story/{kind}" for kind in KINDS)
OPENERS = ("", "", "", "Story: ", "Story: ", "Here is a story. ", "Listen. ", "One day ", "Today ")


@dataclass
class World:
    """The sentences so far and what is true after them."""

    sentences: list[str] = field(default_factory=list)
    owners: dict[str, list[str]] = field(default_factory=dict)  # thing -> every owner, the last one holds it
    places: dict[str, list[str]] = field(default_factory=dict)  # person -> every place, the last one is current
    history: dict[str, list[str]] = field(default_factory=dict)  # person -> "has lamp", "gives lamp", "gets cup"


def pair_is_held(person: str, other: str) -> bool:
    """Returns True if no training story may ever let this person hold this thing or be in this place."""
    return is_held("story", f"{person}+{other}")


def choose(rng: Rng, split: Split, people: Sequence[str], things: Sequence[str]) -> tuple[str, str] | None:
    """Returns a (person, thing) that the split allows, or None if eight tries found none."""
    for _ in range(8):
        person, thing = rng.pick(people), rng.pick(things)
        if split == "held" or not pair_is_held(person, thing):
            return person, thing
    return None


def introduce_things(rng: Rng, split: Split, world: World, people: Sequence[str], things: Sequence[str]) -> None:
    """Gives each thing a first owner, owner first ("Ruby has a lamp.") as often as thing first."""
    free = list(people)
    lines: list[str] = []
    for thing in things:
        pair = choose(rng, split, free, [thing])
        if pair is None:
            continue
        person = pair[0]
        free.remove(person)
        world.owners[thing] = [person]
        world.history[person] = [f"has {thing}"]
        lines.append(f"{person} has a {thing}." if rng.chance(50) else f"The {thing} belongs to {person}.")
    for person in free:
        if rng.chance(60):
            world.history[person] = ["nothing"]
            lines.append(f"{person} has nothing.")
    world.sentences += rng.sample(lines, len(lines))


def give(rng: Rng, split: Split, world: World, people: Sequence[str]) -> None:
    """Moves a thing to someone who never had it, so that its chain of owners has no loop."""
    pair = choose(rng, split, people, list(world.owners)) if world.owners else None
    if pair is None or pair[0] in world.owners[pair[1]]:
        return
    taker, thing = pair
    giver = world.owners[thing][-1]
    world.owners[thing].append(taker)
    world.history[giver].append(f"gives {thing}")
    world.history.setdefault(taker, []).append(f"gets {thing}")
    world.sentences.append(f"{giver} gives the {thing} to {taker}.")


def walk(rng: Rng, split: Split, world: World, people: Sequence[str], places: Sequence[str]) -> None:
    """Puts a person in a first place, or moves them to another one."""
    pair = choose(rng, split, people, places)
    if pair is None:
        return
    person, place = pair
    been = world.places.setdefault(person, [])
    if been and been[-1] == place:
        return
    world.sentences.append(f"{person} {'goes to' if been else 'is at'} the {place}.")
    been.append(place)


def tell(rng: Rng, split: Split) -> tuple[str, list[Item], World]:
    """Returns the text of a story, every question that it answers in random order, and its world.

    Six stories in ten are about things, three about places, one about both; three in ten have no event at all.
    """
    world, sort = World(), rng.below(10)
    people = rng.sample(NAMES, (2, 3, 3, 3, 4)[rng.below(5)] if sort < 6 else rng.between(2, 3))
    events = (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)[rng.below(10)]
    if sort < 6 or sort == 9:
        introduce_things(rng, split, world, people, rng.sample(OBJECTS, min(len(people), rng.between(1, 3))))
    if sort >= 6:
        places = rng.sample(PLACES, 4)
        for person in people:
            walk(rng, split, world, [person], places)
        for _ in range(events):
            walk(rng, split, world, people, places)
    if sort < 6 or sort == 9:
        for _ in range(events if sort < 6 else 1 + events // 2):
            give(rng, split, world, people)
    opener = rng.pick(OPENERS)
    text = " ".join(world.sentences)
    text = opener + (text if opener[-2:] != "y " or text[:4] != "The " else "the" + text[3:])
    items = questions(world, text, split)
    return text, rng.sample(items, len(items)), world


def roll(rng: Rng) -> str:
    """Returns who has what, or who is where, for several people, said again in other orders and in both directions."""
    world = World()
    people = rng.sample(NAMES, rng.between(3, 6))
    if rng.chance(60):
        introduce_things(rng, "train", world, people, rng.sample(OBJECTS, len(people) - rng.below(2)))
    else:
        places = rng.sample(PLACES, rng.between(3, 5))
        for person in people:
            walk(rng, "train", world, [person], places)
    lines = [text for _ in range(rng.between(2, 3)) if (text := ledger(rng, world))]
    return "\n".join([" ".join(world.sentences), *lines])


def ledger(rng: Rng, world: World) -> str:
    """Returns one dense line of what is true at the end: "Owners: lamp Ruby, cup Ben."; "" for an empty world.

    A look-up per three tokens instead of one per fifteen: it teaches where to look long before questions do.
    """
    held = {person: [thing for thing, chain in world.owners.items() if chain[-1] == person] for person in world.history}
    kinds = [
        ("Owners", [f"{thing} {chain[-1]}" for thing, chain in world.owners.items()]),
        ("Places", [f"{person} {chain[-1]}" for person, chain in world.places.items()]),
        ("Things", [f"{person} {(*things, 'nothing')[0]}" for person, things in held.items() if len(things) < 2]),
        ("First owners", [f"{thing} {chain[0]}" for thing, chain in world.owners.items()]),
    ]
    lines = [f"{label}: {', '.join(rng.sample(pairs, len(pairs)))}." for label, pairs in kinds if pairs]
    return rng.pick(lines) if lines else ""


def questions(world: World, text: str, split: Split) -> list[Item]:
    """Returns every question with one clear answer; held stories ask only about held pairs."""
    items = [who(world, thing, text) for thing in world.owners]
    items += [item for person in world.history if (item := what(world, person, text))]
    items += [where(world, person, text) for person in world.places]
    return [item for key, item in items if split == "train" or pair_is_held(*key)]


def who(world: World, thing: str, text: str) -> tuple[tuple[str, str], Item]:
    """Returns the question who holds a thing, answered by its chain of owners."""
    chain = world.owners[thing]
    worked = f"Owner of the {thing}: {', '.join(chain)}. {chain[-1]} has the {thing}."
    kind = "who" if len(chain) == 1 else "who-moved"
    item = Item(
        family=f"story/{kind}",
        wording="who",
        slots={"o": thing},
        worked=worked,
        answer=chain[-1],
        shortcut=chain[0],
        context=text,
    )
    return (chain[-1], thing), item


def what(world: World, person: str, text: str) -> tuple[tuple[str, str], Item] | None:
    """Returns the question what a person has, answered by what came and went; None if they hold several things."""
    held = [thing for thing, chain in world.owners.items() if chain[-1] == person]
    if len(held) > 1:
        return None
    past = world.history[person]
    end = f"the {held[0]}" if held else "nothing"
    first = next((entry.split()[1] for entry in past if " " in entry), "nothing")
    kind = "nothing" if not held else "what" if len(past) == 1 else "what-moved"
    worked = f"Things of {person}: {', '.join(past)}. {person} has {end}."
    item = Item(
        family=f"story/{kind}",
        wording="what",
        slots={"n": person},
        worked=worked,
        answer=held[0] if held else end,
        shortcut=first,
        context=text,
    )
    return (person, held[0] if held else first), item


def where(world: World, person: str, text: str) -> tuple[tuple[str, str], Item]:
    """Returns the question where a person is, answered by the places they went to."""
    chain = world.places[person]
    last_named = text.rstrip(".").rsplit(" ", 1)[1]
    shortcut = last_named if last_named in PLACES else chain[0]
    worked = f"Places of {person}: {', '.join(chain)}. {person} is at the {chain[-1]}."
    kind = "where" if len(chain) == 1 else "where-moved"
    item = Item(
        family=f"story/{kind}",
        wording="where",
        slots={"n": person},
        worked=worked,
        answer=chain[-1],
        shortcut=shortcut,
        context=text,
    )
    return (person, chain[-1]), item


def question_of(rng: Rng, split: Split, family: str) -> Item:
    """Returns a question of one family, from as many stories as it takes."""
    while True:
        _, items, _ = tell(rng, split)
        for item in items:
            if item.family == family:
                return item
