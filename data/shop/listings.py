"""Items, the listings that sell them, and the attributes a catalogue would keep.

A listing is composed of a headline, one phrase per attribute and sometimes a distractor: a
phrase with a number, colour or brand that is *not* an attribute of the item. Without distractors
a model could score by copying whatever looks like a price.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from kdharness.data.shop.world import (
    ADJECTIVES,
    BRANDS,
    COLOURS,
    SIZE_CODES,
    Department,
)

OPTIONAL = ("brand", "colour", "size", "material", "price")
DISTRACTOR_RATE = 0.5

HEADLINES = (
    "{adjective} {product} by {brand}",
    "{brand} {adjective} {product}",
    "New from {brand}: {adjective} {product}",
    "{brand} brings you this {adjective} {product}",
    "{product}, {adjective}, from {brand}",
    "{adjective} {brand} {product}",
)
PLAIN_HEADLINES = (
    "{adjective} {product}",
    "A truly {adjective} {product}",
    "Just in: {adjective} {product}",
    "{product}, {adjective} and new",
)
"""Headlines of items whose listing has no brand."""

PHRASES = {
    "colour": ("in {}", "{} finish", "colour {}", "comes in {}", "a warm {} tone", "{} all over"),
    "size": ("size {}", "{} size", "measures {}", "dimensions: {}", "the {} one"),
    "material": ("made of {}", "{} body", "pure {}", "crafted from {}", "material {}"),
    "price": ("${}", "now {} dollars", "only ${}", "yours for {} dollars", "price: ${}"),
}
DISTRACTORS = (
    "was ${high}",
    "{count} left",
    "pairs with {other_colour} goods",
    "outsells {other_brand}",
    "rated 4.{digit} of 5",
    "ships in {count} days",
    "save {high} points",
    "last one",
    "a great gift",
    "not sold in {other_colour}",
)
JOINERS = (", ", ". ", "; ", " - ", " | ")


@dataclass(frozen=True)
class Item:
    """One item on sale; an attribute that the listing does not state is None."""

    department: str
    product: str
    adjective: str
    brand: str | None
    colour: str | None
    size: str | None
    material: str | None
    price: int | None

    def attributes(self) -> dict[str, str]:
        """Return the catalogue entry: strings, and no key for what the listing doesn't state.

        Absent rather than null, to keep the rows short.
        """
        price = None if self.price is None else f"${self.price}"
        size = None if self.size is None else SIZE_CODES.get(self.size, self.size)
        fields = {
            "brand": self.brand,
            "product": self.product,
            "colour": self.colour,
            "size": size,
            "material": self.material,
            "price": price,
        }
        return {name: value for name, value in fields.items() if value is not None}


def reserved_adjectives(product: str) -> tuple[str, str]:
    """Return the two adjectives that describe a product only in the test split.

    They depend only on the name, not on the seed, so that a test set made with one seed
    contains unseen combinations for a training set made with another.
    """
    start = sum(product.encode()) % len(ADJECTIVES)
    return ADJECTIVES[start], ADJECTIVES[(start + 3) % len(ADJECTIVES)]


def draw_item(
    rng: random.Random, department: Department, product: str, *, test: bool, missing: float
) -> Item:
    """Draw an item; each optional attribute is omitted with probability `missing`."""
    reserved = reserved_adjectives(product)
    open_adjectives = [word for word in ADJECTIVES if word not in reserved]
    hidden = {name for name in OPTIONAL if rng.random() < missing}
    adjective = rng.choice(reserved if test else open_adjectives)
    drawn = (
        rng.choice(BRANDS),
        rng.choice(COLOURS),
        rng.choice(department.sizes),
        rng.choice(department.materials),
        rng.randrange(6, 99),
    )
    brand, colour, size, material, price = drawn
    return Item(
        department=department.name,
        product=product,
        adjective=adjective,
        brand=None if "brand" in hidden else brand,
        colour=None if "colour" in hidden else colour,
        size=None if "size" in hidden else size,
        material=None if "material" in hidden else material,
        price=None if "price" in hidden else price,
    )


def write_listing(rng: random.Random, item: Item) -> str:
    """Write an item's listing as a shop would."""
    headline = rng.choice(HEADLINES if item.brand else PLAIN_HEADLINES).format(
        adjective=item.adjective, product=item.product, brand=item.brand
    )
    values = {
        "colour": item.colour,
        "size": item.size,
        "material": item.material,
        "price": item.price,
    }
    parts = [
        rng.choice(PHRASES[name]).format(value)
        for name, value in values.items()
        if value is not None
    ]
    if rng.random() < DISTRACTOR_RATE:
        parts.append(write_distractor(rng, item))
    rng.shuffle(parts)
    joiner = rng.choice(JOINERS)
    pieces = [headline, *parts]
    if joiner == ". ":
        pieces = [piece[0].upper() + piece[1:] for piece in pieces]
    text = joiner.join(pieces)
    return text[0].upper() + text[1:] + "."


def write_distractor(rng: random.Random, item: Item) -> str:
    """Return a phrase that looks like an attribute but is not; it never repeats a true value."""
    return rng.choice(DISTRACTORS).format(
        high=rng.randrange(100, 200, 5),
        count=rng.randrange(2, 6),
        digit=rng.randrange(1, 10),
        other_colour=rng.choice([word for word in COLOURS if word != item.colour]),
        other_brand=rng.choice([word for word in BRANDS if word != item.brand]),
    )
