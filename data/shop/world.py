"""What Marlowick sells: departments, products and the words that describe them.

Brands and department codes are invented, so an untrained model can't answer with them, and a
trained model's score is what it has learned. The code follows an everyday word: with invented
names alone (even suggestive ones such as "Pawcourt"), a 135M model still got only a fifth of the
test right after two or three epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

SHOP = "Marlowick"


@dataclass(frozen=True)
class Department:
    """One part of the shop.

    `held_out` products occur only in the test split: one for each task on listings.
    """

    name: str
    products: tuple[str, ...]
    held_out: tuple[str, str]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]


DEPARTMENTS = (
    Department(
        name="Kitchen Q7",
        products=("mug", "teapot", "skillet", "ladle", "baking tin", "salad bowl"),
        held_out=("colander", "whisk"),
        materials=("steel", "stoneware", "beech", "enamel"),
        sizes=("12 cm", "20 cm", "26 cm", "31 cm"),
    ),
    Department(
        name="Garden V2",
        products=("watering can", "trowel", "planter", "hose reel", "rake", "bird bath"),
        held_out=("wheelbarrow", "garden fork"),
        materials=("zinc", "cedar", "resin", "iron"),
        sizes=("35 cm", "48 cm", "60 cm", "95 cm"),
    ),
    Department(
        name="Clothing J5",
        products=("scarf", "cardigan", "raincoat", "belt", "beanie", "waistcoat"),
        held_out=("jacket", "tunic"),
        materials=("wool", "linen", "cotton", "felt"),
        sizes=("small", "medium", "large", "extra large"),
    ),
    Department(
        name="Toys W9",
        products=("kite", "puzzle", "spinning top", "puppet", "toy train", "doll house"),
        held_out=("toy drum", "rocking horse"),
        materials=("pine", "birch", "card", "felt"),
        sizes=("9 cm", "18 cm", "40 cm", "75 cm"),
    ),
    Department(
        name="Sports X4",
        products=("yoga mat", "jump rope", "tennis racket", "dumbbell", "swim cap", "hockey stick"),
        held_out=("skateboard", "boxing glove"),
        materials=("cork", "rubber", "nylon", "carbon"),
        sizes=("small", "medium", "large", "extra large"),
    ),
    Department(
        name="Office Z8",
        products=("notebook", "desk tray", "stapler", "fountain pen", "bookend", "pin board"),
        held_out=("pencil case", "paperweight"),
        materials=("leather", "walnut", "brass", "cork"),
        sizes=("8 cm", "15 cm", "21 cm", "30 cm"),
    ),
    Department(
        name="Lighting D3",
        products=(
            "table lamp",
            "lantern",
            "candle holder",
            "night light",
            "lampshade",
            "spotlight",
        ),
        held_out=("floor lamp", "chandelier"),
        materials=("glass", "brass", "paper", "copper"),
        sizes=("14 cm", "28 cm", "45 cm", "110 cm"),
    ),
    Department(
        name="Pets N6",
        products=("dog bed", "cat collar", "bird feeder", "leash", "scratching post", "fish tank"),
        held_out=("dog kennel", "hamster wheel"),
        materials=("nylon", "hemp", "wicker", "steel"),
        sizes=("small", "medium", "large", "extra large"),
    ),
)

DEPARTMENT_NAMES = tuple(department.name for department in DEPARTMENTS)

BRANDS = (
    "Torvane",
    "Lumbeck",
    "Quillmoor",
    "Zephra",
    "Mirrow",
    "Caskley",
    "Ondrel",
    "Pellune",
    "Brackwith",
    "Sunderly",
)
COLOURS = ("teal", "plum", "sand", "coral", "olive", "slate", "ivory", "navy", "rust", "mint")
ADJECTIVES = (
    "handy",
    "sturdy",
    "elegant",
    "classic",
    "lovely",
    "practical",
    "stylish",
    "reliable",
    "charming",
    "simple",
)

SIZE_CODES = {"small": "S", "medium": "M", "large": "L", "extra large": "XL"}
"""The shop's catalogue writes clothing sizes as codes; measures are unchanged."""
