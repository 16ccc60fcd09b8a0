"""The vocabulary of the world: things, parts and backgrounds, their colours and states, and the themes of scenes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Place = Literal["ground", "surface", "wall", "sky", "part", "background"]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "tan")
MATERIALS = ("wooden", "metal", "plastic", "leather", "glass")
QUALITIES = ("young", "old", "tall", "striped", "fluffy", "round", "shiny", "dirty", "ripe", "open", "folded")
ATTRIBUTES = COLOURS + MATERIALS + QUALITIES
SYNONYMS_OF_ATTRIBUTES = {"gray": "grey", "tan": "beige", "striped": "stripy", "shiny": "glossy"}

_PALETTES = {
    "clothes": ("red", "blue", "white", "black", "green", "yellow", "pink", "purple", "gray", "orange"),
    "paint": ("red", "blue", "white", "black", "gray", "green", "yellow", "orange"),
    "cloth": ("white", "blue", "red", "gray", "brown", "green", "purple", "pink", "tan"),
    "wood": ("brown", "white", "black", "tan"),
    "ware": ("white", "blue", "black", "red", "green", "yellow", "gray"),
    "toy": ("red", "yellow", "blue", "green", "orange", "pink", "purple", "white"),
    "device": ("black", "white", "gray", "pink"),
}


@dataclass(frozen=True, kw_only=True)
class Category:
    """A kind of thing that the detector can name."""

    number: int  # line number in objects_vocab.txt, from zero
    names: tuple[str, ...]  # the first name and its synonyms
    plural: str
    place: Place
    palette: tuple[str, ...]
    group: str  # the detector confuses categories of one group
    height: float = 0.0
    """As a fraction of the image's height when it stands near; parts and backgrounds have no shape of their own."""
    aspect: float = 1.0  # width / height in pixels
    states: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    stance: str = "is"  # the verb of its position: `stands`, `lies`, `is parked`

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A kind of scene; its objects come in order of frequency."""

    number: int
    name: str
    settings: tuple[str, ...]  # ends of a sentence that tell the theme
    ground: str
    backgrounds: tuple[str, ...]
    objects: tuple[str, ...]


# names | plural | height aspect | place | palette | states | group | parts | stance
_THINGS = """
man,guy|men|.55 .42|ground|clothes|young old tall|person|head shirt hat|stands
woman,lady|women|.53 .42|ground|clothes|young old tall|person|head shirt hair|stands
boy,kid|boys|.42 .42|ground|clothes|young tall|person|head shirt hat|stands
girl|girls|.41 .42|ground|clothes|young tall|person|head shirt hair|stands
table|tables|.30 2.0|ground|wood|wooden round old metal|table|leg|stands
desk|desks|.34 2.2|ground|wood|wooden metal old|table|leg drawer|stands
chair|chairs|.34 .75|ground|cloth|wooden plastic metal|seat|leg|stands
bench|benches|.26 2.2|ground|wood|wooden metal old|seat|leg|stands
couch,sofa|couches|.34 2.2|ground|cloth|leather striped old|seat|armrest|stands
bed|beds|.36 1.9|ground|cloth|wooden striped|seat|blanket|stands
stove,oven|stoves|.38 .95|ground|white black gray|metal dirty shiny|appliance|knob door|stands
refrigerator,fridge|refrigerators|.60 .50|ground|white black gray red|metal old|appliance|door handle|stands
toaster|toasters|.12 1.4|surface|gray black white red|metal shiny|appliance|knob|stands
pot|pots|.13 1.2|surface|gray black red blue|metal shiny dirty|cookware|lid handle|stands
pan|pans|.08 2.2|surface|black gray red|metal dirty|cookware|lid handle|lies
cup,mug|cups|.09 .9|surface|ware|plastic glass|vessel|handle|stands
bowl|bowls|.08 1.7|surface|ware|wooden plastic glass|vessel||stands
plate,dish|plates|.05 3.0|surface|ware|round plastic shiny|vessel||lies
bottle|bottles|.15 .33|surface|green brown white blue|glass plastic|vessel|label lid|stands
wine glass|wine glasses|.14 .45|surface|white red pink|shiny|vessel||stands
vase|vases|.16 .55|surface|ware|glass tall|vessel|flower|stands
apple|apples|.06 1.0|surface|red green yellow|ripe shiny|food||lies
banana|bananas|.06 1.9|surface|yellow green|ripe|food||lies
carrot|carrots|.05 2.4|surface|orange|dirty|food||lies
pizza|pizzas|.08 2.4|surface|yellow red brown|round|food|crust|lies
cake|cakes|.12 1.3|surface|white brown pink yellow|round|food|candle|stands
car,automobile|cars|.27 1.9|ground|paint|old shiny dirty|vehicle|wheel window headlight|is parked
bus|buses|.42 2.0|ground|red white blue yellow green|old tall|vehicle|wheel window door|is parked
truck|trucks|.38 1.8|ground|paint|old dirty|vehicle|wheel window headlight|is parked
bicycle,bike|bicycles|.30 1.4|ground|red blue black white green yellow|old metal|cycle|wheel seat|stands
motorcycle,motorbike|motorcycles|.30 1.5|ground|black red blue white|shiny old|cycle|wheel headlight seat|is parked
tractor|tractors|.38 1.3|ground|red green yellow blue|old dirty|vehicle|wheel window|is parked
traffic light,stoplight|traffic lights|.22 .42|wall|yellow black green|tall|sign|pole|hangs
fire hydrant,hydrant|fire hydrants|.19 .55|ground|red yellow white blue|metal old|sign|knob|stands
boat,ship|boats|.22 2.0|ground|white blue red green|wooden old|vehicle|sail pole|floats
airplane,plane|airplanes|.13 2.7|sky|white blue gray red|shiny|flyer|wing tail|flies
kite|kites|.15 1.2|sky|toy|striped|flyer|tail|flies
bird|birds|.08 1.3|sky|white black gray brown|young|flyer|wing tail|flies
umbrella,parasol|umbrellas|.24 1.7|ground|toy|striped open folded|canopy|pole handle|stands
surfboard|surfboards|.13 2.9|ground|white blue yellow red pink|shiny striped|board||lies
skateboard|skateboards|.07 3.0|ground|black red green blue brown|wooden old|board|wheel|lies
frisbee,disc|frisbees|.06 1.9|ground|red yellow white blue orange|plastic round|board||lies
ball|balls|.09 1.0|ground|toy|round shiny striped|board||lies
horse|horses|.44 1.25|ground|brown black white tan gray|young tall|livestock|head tail leg|stands
cow|cows|.36 1.4|ground|brown black white tan|young dirty|livestock|head tail leg|stands
sheep|sheep|.25 1.3|ground|white gray black tan|fluffy dirty|livestock|head leg|stands
chicken,hen|chickens|.13 1.0|ground|white brown black red|fluffy|flyer|head tail|stands
elephant|elephants|.50 1.35|ground|gray brown|old dirty|wild|head tail leg|stands
zebra|zebras|.40 1.25|ground|white black|striped young|wild|head tail leg|stands
giraffe|giraffes|.66 .62|ground|tan yellow brown|tall young|wild|head leg|stands
dog,puppy|dogs|.22 1.2|ground|brown black white tan gray|fluffy young old|pet|head tail leg|sits
cat,kitten|cats|.16 1.3|ground|black white gray orange tan|fluffy striped|pet|head tail|sits
laptop,notebook computer|laptops|.13 1.4|surface|gray black white|open shiny|screen|button|stands
monitor,computer screen|monitors|.20 1.3|surface|black white gray|shiny|screen|button|stands
television,tv|televisions|.24 1.6|wall|black gray white|shiny old|screen|button|hangs
keyboard|keyboards|.05 3.2|surface|device|plastic dirty|gadget|button|lies
phone,cell phone|phones|.06 .9|surface|device|shiny old|gadget|button|lies
book|books|.06 1.7|surface|cloth|open old|gadget||lies
clock|clocks|.13 1.0|wall|white black brown red|round old|sign||hangs
lamp,light|lamps|.26 .50|surface|white yellow black tan|tall|canopy|pole|stands
picture,painting|pictures|.20 1.2|wall|toy|wooden|screen||hangs
pillow,cushion|pillows|.10 1.6|surface|cloth|striped fluffy|soft||lies
teddy bear,stuffed bear|teddy bears|.16 .85|surface|brown tan white pink|fluffy|soft|head ear|sits
backpack,rucksack|backpacks|.18 .85|ground|clothes|leather open|bag|strap|lies
suitcase,bag|suitcases|.22 1.2|ground|black red blue brown gray|leather old open|bag|handle wheel|stands
"""

# Where a part sits inside its owner, as shares of the owner's box (x0 y0 x1 y1), and its usual colours.
PARTS: dict[str, tuple[tuple[float, float, float, float], tuple[str, ...]]] = {
    "head": ((0.30, 0.00, 0.70, 0.25), ()),
    "hair": ((0.30, 0.00, 0.70, 0.15), ("brown", "black", "yellow", "gray")),
    "hat": ((0.28, 0.00, 0.72, 0.12), ("black", "red", "blue", "white", "tan")),
    "shirt": ((0.15, 0.22, 0.85, 0.58), ()),
    "leg": ((0.15, 0.62, 0.40, 1.00), ()),
    "tail": ((0.00, 0.20, 0.18, 0.62), ()),
    "ear": ((0.20, 0.00, 0.40, 0.20), ()),
    "wing": ((0.25, 0.20, 0.75, 0.60), ()),
    "wheel": ((0.08, 0.62, 0.34, 1.00), ("black", "gray")),
    "window": ((0.30, 0.08, 0.72, 0.45), ("black", "gray", "white")),
    "headlight": ((0.80, 0.48, 0.97, 0.68), ("white", "yellow")),
    "seat": ((0.35, 0.05, 0.62, 0.28), ("black", "brown")),
    "door": ((0.20, 0.30, 0.80, 0.92), ()),
    "drawer": ((0.62, 0.30, 0.95, 0.70), ()),
    "handle": ((0.72, 0.25, 0.98, 0.65), ("black", "gray", "brown")),
    "knob": ((0.40, 0.12, 0.58, 0.30), ("black", "gray", "white")),
    "lid": ((0.10, 0.00, 0.90, 0.24), ("gray", "black", "white", "blue")),
    "label": ((0.10, 0.42, 0.90, 0.72), ("white", "red", "yellow")),
    "button": ((0.42, 0.80, 0.58, 0.96), ("black", "white")),
    "armrest": ((0.02, 0.15, 0.16, 0.70), ()),
    "blanket": ((0.12, 0.30, 0.90, 0.80), ("white", "blue", "red", "gray", "green", "pink")),
    "crust": ((0.00, 0.50, 0.50, 1.00), ("brown", "tan")),
    "candle": ((0.42, 0.00, 0.56, 0.34), ("red", "white", "pink", "yellow")),
    "flower": ((0.10, 0.00, 0.90, 0.40), ("red", "yellow", "pink", "white", "purple")),
    "sail": ((0.30, 0.00, 0.75, 0.65), ("white", "red", "blue")),
    "pole": ((0.44, 0.30, 0.56, 1.00), ("gray", "black", "brown")),
    "strap": ((0.10, 0.10, 0.30, 0.80), ("black", "brown")),
}

# What fills the rest of an image: upper or lower half, and its colours.
BACKGROUNDS: dict[str, tuple[Literal["upper", "lower"], tuple[str, ...]]] = {
    "sky": ("upper", ("blue", "gray", "white", "orange")),
    "cloud": ("upper", ("white", "gray")),
    "tree": ("upper", ("green", "brown", "orange")),
    "hill": ("upper", ("green", "brown", "gray")),
    "building": ("upper", ("brown", "red", "gray", "white", "tan")),
    "wall": ("upper", ("white", "tan", "blue", "yellow", "gray", "green")),
    "curtain": ("upper", ("white", "red", "blue", "green", "tan")),
    "shelf": ("upper", ("brown", "white", "black")),
    "cabinet": ("upper", ("brown", "white", "gray", "tan")),
    "ocean": ("upper", ("blue", "green", "gray")),
    "barn": ("upper", ("red", "brown", "white")),
    "fence": ("upper", ("brown", "white", "gray")),
    "floor": ("lower", ("brown", "white", "gray", "tan", "black")),
    "carpet": ("lower", ("red", "blue", "gray", "tan", "green")),
    "road": ("lower", ("gray", "black")),
    "sidewalk": ("lower", ("gray", "white", "tan")),
    "sand": ("lower", ("tan", "white", "yellow")),
    "grass": ("lower", ("green", "yellow", "brown")),
    "dirt": ("lower", ("brown", "tan", "red")),
}

# name | settings | ground | backgrounds | objects, the frequent ones first
_THEMES = """
kitchen|in a kitchen,in the kitchen|floor|wall cabinet floor shelf|table stove cup refrigerator woman bowl chair plate \
bottle pot man banana apple pan toaster cat clock carrot
restaurant|in a restaurant,at a cafe|floor|wall curtain floor shelf|table pizza plate wine_glass man chair woman cup \
bottle cake vase girl bowl lamp picture boy phone
street|on a city street,on the street|road|sky building road sidewalk tree|car man bus traffic_light bicycle truck \
woman motorcycle dog fire_hydrant umbrella bench boy suitcase skateboard airplane
beach|on the beach,at the beach|sand|sky ocean sand cloud|woman umbrella surfboard man boat kite ball boy dog girl \
chair bird frisbee bench horse backpack
farm|on a farm,in a farm field|grass|sky barn grass fence dirt|cow horse sheep man tractor chicken dog boy truck woman \
bird bench ball cat bicycle
office|in an office,in the office|carpet|wall carpet shelf curtain|desk monitor chair keyboard laptop phone book man \
cup lamp woman clock bottle backpack picture
park|in a park,at the park|grass|sky tree grass sidewalk hill|dog bench man girl ball bicycle frisbee woman kite boy \
skateboard bird backpack umbrella book horse
living room|in a living room,in the living room|carpet|wall curtain carpet shelf|couch television table pillow cat \
lamp picture woman book dog man chair vase laptop teddy_bear clock boy
bedroom|in a bedroom,in the bedroom|floor|wall curtain floor carpet|bed pillow lamp picture cat suitcase teddy_bear \
book girl chair clock woman backpack television dog laptop
savanna|on the savanna,in the wild|dirt|sky hill dirt tree grass|elephant giraffe zebra bird man cow truck horse \
backpack airplane woman
"""


def _read_categories() -> tuple[Category, ...]:
    categories: list[Category] = []
    for line in _THINGS.strip().splitlines():
        names, plural, shape, place, palette, states, group, parts, stance = line.split("|")
        height, aspect = map(float, shape.split())
        category = Category(
            number=len(categories),
            names=tuple(names.split(",")),
            plural=plural,
            place=cast(Place, place),
            palette=_PALETTES.get(palette, tuple(palette.split())),
            group=group,
            height=height,
            aspect=aspect,
            states=tuple(states.split()),
            parts=tuple(parts.split()),
            stance=stance,
        )
        categories.append(category)
    tables: dict[Place, Mapping[str, tuple[object, tuple[str, ...]]]] = {"part": PARTS, "background": BACKGROUNDS}
    for place, table in tables.items():
        for name, (_, colours) in table.items():
            number = len(categories)
            categories.append(
                Category(number=number, names=(name,), plural=name, place=place, palette=colours, group=place)
            )
    return tuple(categories)


def _read_themes() -> tuple[Theme, ...]:
    rows = [line.split("|") for line in _THEMES.strip().splitlines()]
    return tuple(
        Theme(
            number=number,
            name=name,
            settings=tuple(settings.split(",")),
            ground=ground,
            backgrounds=tuple(backgrounds.split()),
            objects=tuple(word.replace("_", " ") for word in objects.split()),
        )
        for number, (name, settings, ground, backgrounds, objects) in enumerate(rows)
    )


CATEGORIES = _read_categories()
"""Line number in objects_vocab.txt -> category: things, then parts, then backgrounds."""
BY_NAME = {category.name: category for category in CATEGORIES}
THINGS = tuple(category for category in CATEGORIES if category.place not in ("part", "background"))
THEMES = _read_themes()
GROUPS = {group: tuple(c for c in CATEGORIES if c.group == group) for group in sorted({c.group for c in CATEGORIES})}

PEOPLE = frozenset({"man", "woman", "boy", "girl"})
CARRIERS = frozenset({"table", "desk", "bench", "bed", "couch", "stove"})
SEATS = frozenset({"couch", "bench", "chair", "bed"})
RIDEABLE = frozenset({"horse", "bicycle", "motorcycle", "skateboard", "surfboard", "elephant"})
HOLDABLE = frozenset(
    {"umbrella", "phone", "book", "frisbee", "ball", "cup", "wine glass", "banana", "bottle", "teddy bear", "kite"}
)
WEARABLE = frozenset({"backpack"})


def objects_vocabulary() -> str:
    """Return the text of objects_vocab.txt: one category a line, synonyms behind commas, no final newline."""
    return "\n".join(",".join(category.names) for category in CATEGORIES)


def attributes_vocabulary() -> str:
    """Return the text of attributes_vocab.txt, laid out as objects_vocabulary."""
    return "\n".join(
        f"{name},{SYNONYMS_OF_ATTRIBUTES[name]}" if name in SYNONYMS_OF_ATTRIBUTES else name for name in ATTRIBUTES
    )
