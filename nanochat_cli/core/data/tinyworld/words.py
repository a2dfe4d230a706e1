"""The closed vocabulary of the little world: names, things, places and the words to spell."""

from __future__ import annotations


def listed(text: str) -> tuple[str, ...]:
    """Returns the words of a text that are separated by spaces."""
    return tuple(text.split())


NAMES = listed("Anna Ben Clara Dan Ella Finn Grace Hugo Iris Jack Kate Leo Mia Noah Olive Paul Ruby Sam Tina Max")

# None starts with a vowel, so that "a" is always the right article.
OBJECTS = listed(
    "ball bell book bottle box brush bucket button candle coin cup drum flag flute glove hat kite key lamp map "
    "mirror paddle pencil ring rope scarf shell shoe spoon stone ticket toy whistle wagon"
)

PLACES = listed("barn beach bakery cave farm forest garden hall kitchen library market meadow museum park school tower")

ADJECTIVES = listed("red blue green small big new pretty shiny soft nice")

COUNTED = listed("apples birds books cakes cards coins nuts pens shells stones")

# Three to eight letters, common, nothing a child should not read. Many have a letter two or three times.
SPELLING_WORDS = listed(
    "ant arm bag bat bed bee bib boy bus bun can car cat cow cup dad dog ear egg eye fan fly fox gum hat hen ice "
    "ink jam jar key kid leg lid lip log man map mom mop net nut oak oil owl pan pea pen pie pig pot rug sea sun "
    "tea toe top toy van web wig zoo baby ball barn bath bear bell bird blue boat bone book boot bowl bulb cake "
    "calf cave city coat coin cook corn crab deer desk doll door drum duck face fern fish five flag foot fork frog "
    "game gate gift goat gold good hair hall hand hill home hood king kiss kite lake lamp leaf lion mall meal milk "
    "mill mirror moon nest nine noon nose note oven park peel pine pool puff rain ring road roof room root rope "
    "rose salt sand seed shoe snow sock soup star swan tail tall tent toad tooth tree vase wall well wolf wood "
    "yarn apple banana beach berry bread brook broom brush bunny candy carrot chair cheese cherry cliff clock "
    "cloud coffee cookie cotton daddy dinner dress eagle floor flower fluffy funny garden giggle glass goose grape "
    "grass green hammer happy horse house jelly juice kitten ladder lemon letter lettuce little lizard mammal "
    "market mitten mommy money mouse muffin needle noodle onion orange paper parrot peach pebble pencil pepper "
    "pillow pizza planet pocket potato puddle puppy puzzle queen rabbit river robin rocket saddle salad school "
    "seesaw sheep silver sister spider spoon squirrel stone summer sunny sweet table teddy tiger tomato tulip "
    "tunnel turtle umbrella valley violin wagon water weather wheel whistle window winter yellow zebra zipper "
    "zigzag balloon blanket bottle bubble butter button chicken dolphin elephant feather football giraffe hamster "
    "holiday honeybee icicle kangaroo mountain mushroom necklace notebook penguin popcorn sandwich scissors "
    "snowball starfish stocking sunshine tadpole trumpet"
)

GUESTS = listed(
    "Adam Alice Amy Bob Carl Carol Daisy David Emma Eric Fred Gina Hannah Helen Ian Jane Jim Joe Julia Karl Kim Laura "
    "Lily Linda Lisa Luke Maria Mark Mary Mike Nina Nora Oscar Otto Pam Peter Rita Robert Rosa Sally Simon Sofia Steve "
    "Susan Theo Tom Vera Victor Walter Will"
)

TOPICS = (
    "football",
    "music",
    "history",
    "physics",
    "chemistry",
    "Paris",
    "London",
    "Africa",
    "China",
    "the moon landing",
    "the stock market",
    "poetry",
    "politics",
    "chess",
    "computers",
    "the internet",
    "electricity",
    "gravity",
    "the weather",
    "French",
    "Latin",
    "cooking",
    "medicine",
    "philosophy",
    "love",
    "time travel",
    "dinosaurs",
    "volcanoes",
    "the ocean",
    "trains",
    "planes",
    "robots",
    "money",
    "law",
    "art",
    "painting",
    "movies",
    "opera",
    "baseball",
    "biology",
)
