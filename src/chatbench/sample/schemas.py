"""The kinds of word problems: how each is told, how its numbers are found in a text, and how it is worked out.

A schema has clauses (sentences that carry facts), possibly one catch (a clause that is easy to overlook and changes
the result), and questions. Every fact has a pattern with one group, the number; the same pattern finds the fact in the
problem's own words and in a user's short form, so an assistant can solve the problem from what a user wrote.

The vocabulary of the word problems: who, what and where.

Every world is a mapping from slot to word. Plurals are spelt out, because a solver finds numbers by the plural that
follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

World = dict[str, str]

NAMES = (
    "Ada Amir Anna Bela Boris Carla Chen Clara Dana David Elena Emil Farah Felix Gina Hana Hugo Ines Ivan Jonas Julia "
    "Kemal Kira Laila Leon Lucia Malik Maria Milan Nadia Nils Nora Olga Omar Paula Pedro Rosa Samir Sofia Tariq Theo "
    "Vera"
).split()


def _worlds(slots: str, rows: str) -> tuple[World, ...]:
    keys = slots.split()
    return tuple(dict(zip(keys, row.split(), strict=True)) for row in rows.strip().splitlines())


PACKED = _worlds(
    "box boxes items",
    """
    box boxes pencils
    bag bags apples
    shelf shelves books
    basket baskets eggs
    jar jars buttons
    crate crates bottles
    tray trays muffins
    album albums stamps
    drawer drawers spoons
    carton cartons candles
    bucket buckets shells
    case cases cameras
    folder folders maps
    packet packets seeds
    sack sacks potatoes
    rack racks plates
    chest chests coins
    tin tins cookies
    cart carts bricks
    pouch pouches marbles
    bin bins balls
    locker lockers helmets
    vase vases roses
    barrel barrels herrings
    """,
)

ITEMS = _worlds(
    "items",
    """
    pencils
    apples
    books
    eggs
    buttons
    bottles
    muffins
    stamps
    spoons
    candles
    shells
    cameras
    maps
    seeds
    potatoes
    plates
    coins
    cookies
    bricks
    marbles
    balls
    helmets
    roses
    kites
    lamps
    cards
    tickets
    beads
    flags
    puzzles
    """,
)

ROW_WORLDS = _worlds(
    "place items",
    """
    hall chairs
    theater seats
    orchard trees
    garden tulips
    bathroom tiles
    stadium benches
    vineyard vines
    bus windows
    library desks
    harbor boats
    parking-lot cars
    camp tents
    kitchen hooks
    gym mats
    ballroom tables
    nursery cribs
    """,
)

GOODS = _worlds(
    "goods others",
    """
    apples pears
    notebooks pens
    shirts socks
    tickets drinks
    plants pots
    lamps bulbs
    kites strings
    hats scarves
    cakes pies
    mugs bowls
    puzzles games
    candles soaps
    roses tulips
    brushes paints
    melons lemons
    pillows blankets
    ropes hooks
    posters frames
    radios batteries
    bricks tiles
    """,
)

JOBS = _worlds(
    "job",
    """
    gardening
    painting
    cleaning
    baking
    driving
    teaching
    singing
    fishing
    typing
    sewing
    tutoring
    packing
    babysitting
    plumbing
    translating
    dancing
    """,
)

PLACES = _worlds(
    "land",
    """
    garden
    field
    yard
    park
    meadow
    playground
    court
    farm
    plot
    lawn
    orchard
    pasture
    terrace
    square
    camp
    courtyard
    """,
)

VEHICLES = _worlds(
    "vehicle",
    """
    train
    bus
    truck
    ship
    cyclist
    car
    tram
    ferry
    runner
    motorbike
    sled
    barge
    plane
    horse
    drone
    wagon
    """,
)

TANKS = _worlds(
    "tank",
    """
    tank
    pool
    barrel
    pond
    cistern
    bathtub
    basin
    aquarium
    fountain
    boiler
    reservoir
    trough
    well
    lock
    """,
)

CLUBS = _worlds(
    "club items",
    """
    school cookies
    club drinks
    library books
    camp blankets
    office pens
    museum leaflets
    bakery samples
    choir candies
    team towels
    clinic masks
    kitchen plums
    garden peaches
    hostel pillows
    theater programs
    station maps
    nursery toys
    """,
)

HELPERS = _worlds(
    "items group",
    """
    coins children
    apples neighbors
    cookies scouts
    tickets players
    books students
    stamps cousins
    eggs farmers
    pears pickers
    shells divers
    cakes bakers
    melons helpers
    nuts hikers
    fish sailors
    plants gardeners
    toys pupils
    medals runners
    """,
)


Facts = Mapping[str, int]


@dataclass(slots=True)
class Working:
    """A calculation that notes its steps; step number `slip_at` comes out wrong by `slip`."""

    slip_at: int | None = None
    slip: int = 0
    steps: list[str] = field(default_factory=list)

    def _note(self, left: int, sign: str, right: int, result: int) -> int:
        if len(self.steps) == self.slip_at:
            result += self.slip
        self.steps.append(f"{left} {sign} {right} = {result}")
        return result

    def add(self, left: int, right: int) -> int:
        return self._note(left, "+", right, left + right)

    def sub(self, left: int, right: int) -> int:
        return self._note(left, "-", right, left - right)

    def mul(self, left: int, right: int) -> int:
        return self._note(left, "*", right, left * right)

    def div(self, left: int, right: int) -> int:
        if right == 0:
            raise ZeroDivisionError("a problem told wrongly may ask to share among nobody")
        return self._note(left, "/", right, left // right)


Solution = Callable[[Facts, Working], int]


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence with facts: `full` as the problem tells it, `short` as people put it, `facts` name -> pattern."""

    full: tuple[str, ...]
    short: tuple[str, ...]
    facts: Mapping[str, str]
    missing: str = ""
    """What an assistant asks when the facts are not there."""


@dataclass(frozen=True, slots=True)
class Catch:
    """A clause that is easily overlooked, and the solution that heeds it."""

    clause: Clause
    solve: Solution


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked, how to tell it from a text, and the plain solution."""

    full: tuple[str, ...]
    short: tuple[str, ...]
    pattern: str
    solve: Solution
    catches: tuple[Catch, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of problem. `ranges` bound each fact, ends included, for small and for large numbers alike."""

    name: str
    subset: str
    worlds: tuple[World, ...]
    clauses: tuple[Clause, ...]
    asks: tuple[Ask, ...]
    ranges: Mapping[str, tuple[int, int]]


def _number(after: str, words: int = 2) -> str:
    """Pattern of a number followed by `after`, with at most `words` words between."""
    return rf"(\d+)\s+(?:[a-z]+\s+){{0,{words}}}?{after}\b"


BROKEN = Clause(
    ("{c} of them are broken.", "It turns out that {c} of them are broken."),
    ("{c} of them are broken", "{c} broken"),
    {"c": _number("broken", 3)},
)

GROUPS = Schema(
    "groups",
    "sample_counting",
    PACKED,
    (
        Clause(
            ("{P} has {a} {boxes}.", "{P} packs {a} {boxes}."),
            ("{a} {boxes}",),
            {"a": _number("{boxes}")},
            "How many {boxes} are there?",
        ),
        Clause(
            ("Each {box} holds {b} {items}.", "There are {b} {items} in each {box}."),
            ("{b} {items} in each", "{b} {items} per {box}"),
            {"b": _number("{items}")},
            "How many {items} are in each {box}?",
        ),
    ),
    (
        Ask(
            ("How many {items} does {P} have in all?", "How many {items} are there in total?"),
            ("how many {items} in all", "total {items}"),
            "(?:in all|total)",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("{c} of them are empty.", "Sadly, {c} of them are empty."),
                        ("{c} of them are empty", "{c} empty"),
                        {"c": _number("empty", 3)},
                    ),
                    lambda f, w: w.mul(w.sub(f["a"], f["c"]), f["b"]),
                ),
                Catch(
                    Clause(
                        ("Another {c} lie loose on the floor.", "Another {c} lie loose beside them."),
                        ("{c} lie loose", "{c} loose"),
                        {"c": _number("loose", 3)},
                    ),
                    lambda f, w: w.add(w.mul(f["a"], f["b"]), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (3, 24), "b": (3, 36), "c": (2, 9)},
)

SHARE = Schema(
    "share",
    "sample_counting",
    ITEMS,
    (
        Clause(
            ("{P} has {a} {items}.", "{P} collects {a} {items}."),
            ("{a} {items}",),
            {"a": _number("{items}")},
            "How many {items} are there?",
        ),
        Clause(
            ("{P} shares them equally among {b} friends.", "They are divided equally among {b} friends."),
            ("{b} friends", "shared among {b} friends"),
            {"b": _number("friends")},
            "How many friends are there?",
        ),
    ),
    (
        Ask(
            ("How many {items} does each friend get?", "How many does each friend receive?"),
            ("how many for each friend", "how many each"),
            "each",
            lambda f, w: w.div(f["a"], f["b"]),
            (
                Catch(BROKEN, lambda f, w: w.div(w.sub(f["a"], f["c"]), f["b"])),
                Catch(
                    Clause(
                        ("First {P} keeps {c} for later.", "Before that, {P} keeps {c} for later."),
                        ("{P} keeps {c}", "keeps {c} first"),
                        {"c": r"keeps\s+(\d+)"},
                    ),
                    lambda f, w: w.div(w.sub(f["a"], f["c"]), f["b"]),
                ),
            ),
        ),
    ),
    {"a": (12, 400), "b": (2, 14), "c": (2, 30)},
)

GAIN_AND_LOSS = Schema(
    "gain and loss",
    "sample_counting",
    ITEMS,
    (
        Clause(
            ("{P} has {a} {items}.", "{P} starts with {a} {items}."),
            ("{a} {items}",),
            {"a": _number("{items}")},
            "How many {items} are there at the start?",
        ),
        Clause(
            ("A neighbor brings {b} more.", "Then {b} more arrive."),
            ("{b} more", "plus {b} more"),
            {"b": _number("more", 1)},
            "How many more come?",
        ),
        Clause(
            ("{P} gives away {d}.", "Later {P} gives away {d}."),
            ("gives away {d}", "giving away {d}"),
            {"d": r"(?:gives?|gave|giving)\s+away\s+(\d+)"},
            "How many are given away?",
        ),
    ),
    (
        Ask(
            ("How many good {items} are left?", "How many good {items} does {P} have then?"),
            ("how many {items} left", "how many are left"),
            "(?:left|then)",
            lambda f, w: w.sub(w.add(f["a"], f["b"]), f["d"]),
            (Catch(BROKEN, lambda f, w: w.sub(w.sub(w.add(f["a"], f["b"]), f["d"]), f["c"])),),
        ),
    ),
    {"a": (10, 300), "b": (5, 200), "d": (3, 90), "c": (2, 20)},
)

COLORS = Schema(
    "colors",
    "sample_counting",
    PACKED,
    (
        Clause(
            ("A {box} holds {a} {items}.", "There are {a} {items} in a {box}."),
            ("{a} {items}",),
            {"a": _number("{items}")},
            "How many {items} are there?",
        ),
        Clause(
            ("{b} are red and {d} are blue.", "Of these, {b} are red and {d} are blue."),
            ("{b} red and {d} blue", "{b} are red, {d} blue"),
            {"b": _number("red", 1), "d": _number("blue", 1)},
            "How many are red and how many are blue?",
        ),
        Clause(("The rest are green.", "All others are green."), ("rest green", "the rest are green"), {}),
    ),
    (
        Ask(
            ("How many are green?", "How many green {items} are there?"),
            ("how many green",),
            "(?:many|number).* green",
            lambda f, w: w.sub(w.sub(f["a"], f["b"]), f["d"]),
        ),
        Ask(
            ("How many are NOT red?", "How many {items} are NOT red?"),
            ("how many not red", "how many are not red"),
            "not red",
            lambda f, w: w.sub(f["a"], f["b"]),
            negated=True,
        ),
        Ask(
            ("How many are NOT blue?", "How many {items} are NOT blue?"),
            ("how many not blue", "how many are not blue"),
            "not blue",
            lambda f, w: w.sub(f["a"], f["d"]),
            negated=True,
        ),
    ),
    {"a": (30, 400), "b": (4, 120), "d": (4, 120)},
)

ROWS = Schema(
    "rows",
    "sample_counting",
    ROW_WORLDS,
    (
        Clause(
            ("The {place} has {a} rows of {items}.", "In the {place} there are {a} rows of {items}."),
            ("{a} rows",),
            {"a": _number("rows", 1)},
            "How many rows are there?",
        ),
        Clause(
            ("There are {b} {items} in every row.", "Every row has {b} {items}."),
            ("{b} {items} in a row", "{b} {items} per row"),
            {"b": _number("{items}", 1)},
            "How many {items} are in every row?",
        ),
    ),
    (
        Ask(
            ("How many good {items} are there?", "How many {items} can be used?"),
            ("how many good {items}", "how many {items} work"),
            "(?:good|used|work)",
            lambda f, w: w.mul(f["a"], f["b"]),
            (Catch(BROKEN, lambda f, w: w.sub(w.mul(f["a"], f["b"]), f["c"])),),
        ),
    ),
    {"a": (3, 28), "b": (4, 34), "c": (2, 12)},
)

COUPON = Clause(
    ("A coupon takes {c} dollars off.", "With a coupon, {P} gets {c} dollars off."),
    ("{c} dollars off", "coupon for {c} dollars off"),
    {"c": r"(\d+)\s+dollars\s+off"},
)
DELIVERY = Clause(
    ("Delivery costs {c} dollars extra.", "The bags cost {c} dollars extra."),
    ("{c} dollars extra", "plus {c} dollars extra"),
    {"c": r"(\d+)\s+dollars\s+extra"},
)
UNIT_PRICE = {"a": _number("{goods}"), "b": r"{goods}\s+(?:[a-z]+\s+){0,2}?(\d+)\s+dollars"}

BUY = Schema(
    "buy",
    "sample_prices",
    GOODS,
    (
        Clause(
            ("{P} buys {a} {goods} at {b} dollars each.", "{P} orders {a} {goods} for {b} dollars each."),
            ("{a} {goods} at {b} dollars each", "{a} {goods} for {b} dollars"),
            UNIT_PRICE,
            "How many {goods} are there and what does one cost?",
        ),
    ),
    (
        Ask(
            ("How many dollars does {P} pay?", "What is the bill in dollars?"),
            ("how much to pay", "how much is the bill"),
            "(?:pay|bill)",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(COUPON, lambda f, w: w.sub(w.mul(f["a"], f["b"]), f["c"])),
                Catch(DELIVERY, lambda f, w: w.add(w.mul(f["a"], f["b"]), f["c"])),
            ),
        ),
    ),
    {"a": (3, 28), "b": (2, 30), "c": (2, 12)},
)

TWO_GOODS = Schema(
    "two goods",
    "sample_prices",
    GOODS,
    (
        Clause(
            ("{P} buys {a} {goods} at {b} dollars each.", "{P} orders {a} {goods} for {b} dollars each."),
            ("{a} {goods} at {b} dollars each", "{a} {goods} for {b} dollars"),
            UNIT_PRICE,
            "How many {goods} are there and what does one cost?",
        ),
        Clause(
            ("{P} also buys {d} {others} at {e} dollars each.", "{P} adds {d} {others} for {e} dollars each."),
            ("{d} {others} at {e} dollars each", "{d} {others} for {e} dollars"),
            {"d": _number("{others}"), "e": r"{others}\s+(?:[a-z]+\s+){0,2}?(\d+)\s+dollars"},
            "How many {others} are there and what does one cost?",
        ),
    ),
    (
        Ask(
            ("How many dollars does {P} pay?", "What is the bill in dollars?"),
            ("how much to pay", "how much is the bill"),
            "(?:pay|bill)",
            lambda f, w: w.add(w.mul(f["a"], f["b"]), w.mul(f["d"], f["e"])),
            (Catch(COUPON, lambda f, w: w.sub(w.add(w.mul(f["a"], f["b"]), w.mul(f["d"], f["e"])), f["c"])),),
        ),
    ),
    {"a": (2, 18), "b": (2, 20), "d": (2, 18), "e": (2, 20), "c": (2, 9)},
)

CHANGE = Schema(
    "change",
    "sample_prices",
    GOODS,
    (
        Clause(
            ("{P} buys {a} {goods} at {b} dollars each.", "{P} orders {a} {goods} for {b} dollars each."),
            ("{a} {goods} at {b} dollars each", "{a} {goods} for {b} dollars"),
            UNIT_PRICE,
            "How many {goods} are there and what does one cost?",
        ),
        Clause(
            ("{P} hands over {d} dollars.", "At the till {P} hands over {d} dollars."),
            ("hands over {d} dollars", "hands over {d}"),
            {"d": r"hands?\s+over\s+(\d+)"},
            "How many dollars are handed over?",
        ),
    ),
    (
        Ask(
            ("How many dollars does {P} get back?", "How many dollars come back?"),
            ("how much back", "how many dollars back"),
            "back",
            lambda f, w: w.sub(f["d"], w.mul(f["a"], f["b"])),
            (Catch(COUPON, lambda f, w: w.sub(f["d"], w.sub(w.mul(f["a"], f["b"]), f["c"]))),),
        ),
    ),
    {"a": (2, 16), "b": (2, 24), "d": (20, 500), "c": (2, 9)},
)

WAGES = Schema(
    "wages",
    "sample_prices",
    JOBS,
    (
        Clause(
            ("{P} earns {a} dollars a day with {job}.", "With {job}, {P} earns {a} dollars a day."),
            ("{a} dollars a day with {job}", "{job} for {a} dollars a day"),
            {"a": r"(\d+)\s+dollars\s+(?:a|per)\s+day"},
            "How many dollars is it a day?",
        ),
        Clause(
            ("{P} works {b} days.", "The work takes {b} days."),
            ("{b} days", "works {b} days"),
            {"b": _number("days", 1)},
            "How many days is it?",
        ),
    ),
    (
        Ask(
            ("How many dollars does {P} earn?", "How many dollars does that make?"),
            ("how much earned", "how many dollars earned"),
            "(?:earn|make)",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("{c} of them are without pay.", "But {c} of them are without pay."),
                        ("{c} of them without pay", "{c} without pay"),
                        {"c": _number("without pay", 3)},
                    ),
                    lambda f, w: w.mul(f["a"], w.sub(f["b"], f["c"])),
                ),
                Catch(
                    Clause(
                        ("{P} spends {c} on tools.", "The tools take {c} of it, which {P} spends at once."),
                        ("spends {c} on tools", "tools take {c}"),
                        {"c": r"(?:spends|take)\s+(\d+)"},
                    ),
                    lambda f, w: w.sub(w.mul(f["a"], f["b"]), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (12, 60), "b": (4, 16), "c": (2, 9)},
)

SIDES = Clause(
    ("A {land} is {a} meters long and {b} meters wide.", "The {land} measures {a} meters long and {b} meters wide."),
    ("{land} {a} meters long and {b} meters wide", "{land} {a} meters long, {b} meters wide"),
    {"a": r"(\d+)\s+meters\s+long", "b": r"(\d+)\s+meters\s+wide"},
    "How long and how wide is it in meters?",
)

AREA = Schema(
    "area",
    "sample_shapes",
    PLACES,
    (SIDES,),
    (
        Ask(
            ("How many square meters can be planted?", "How large is the area that can be planted?"),
            ("how much area to plant", "area that can be planted"),
            "area|plant",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("A pond of {c} square meters lies in it.", "There is a pond of {c} square meters."),
                        ("a pond of {c}", "pond of {c} square meters"),
                        {"c": r"pond\s+of\s+(\d+)"},
                    ),
                    lambda f, w: w.sub(w.mul(f["a"], f["b"]), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (4, 36), "b": (3, 26), "c": (2, 30)},
)

FENCE = Schema(
    "fence",
    "sample_shapes",
    PLACES,
    (SIDES,),
    (
        Ask(
            ("How many meters of fence go around it?", "How many meters of fence are needed?"),
            ("how much fence", "how many meters of fence"),
            "fence",
            lambda f, w: w.mul(2, w.add(f["a"], f["b"])),
            (
                Catch(
                    Clause(
                        ("A gate of {c} meters is already there.", "There is already a gate of {c} meters."),
                        ("a gate of {c}", "gate of {c} meters"),
                        {"c": r"gate\s+of\s+(\d+)"},
                    ),
                    lambda f, w: w.sub(w.mul(2, w.add(f["a"], f["b"])), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (5, 90), "b": (4, 70), "c": (2, 9)},
)

SPEED = r"(\d+)\s+kilometers\s+(?:an|per)\s+hour"

DISTANCE = Schema(
    "distance",
    "sample_motion",
    VEHICLES,
    (
        Clause(
            ("A {vehicle} goes {a} kilometers an hour.", "The {vehicle} moves at {a} kilometers an hour."),
            ("{vehicle} at {a} kilometers an hour", "{vehicle} going {a} kilometers per hour"),
            {"a": SPEED},
            "How fast does it go?",
        ),
        Clause(
            ("It is on the way for {b} hours.", "The trip takes {b} hours."),
            ("for {b} hours", "{b} hours"),
            {"b": _number("hours", 1)},
            "How many hours does it take?",
        ),
    ),
    (
        Ask(
            ("How many kilometers does it cover?", "How far does it get in kilometers?"),
            ("how far", "how many kilometers"),
            "how far|many kilometers",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("It stands still for {c} of them.", "For repairs it stands still for {c} of them."),
                        ("stands still for {c} of them", "still for {c}"),
                        {"c": r"still\s+for\s+(\d+)"},
                    ),
                    lambda f, w: w.mul(f["a"], w.sub(f["b"], f["c"])),
                ),
            ),
        ),
    ),
    {"a": (8, 90), "b": (4, 14), "c": (1, 3)},
)

TRAVEL_TIME = Schema(
    "travel time",
    "sample_motion",
    VEHICLES,
    (
        Clause(
            ("A {vehicle} has to go {b} kilometers.", "The way of a {vehicle} is {b} kilometers long."),
            ("{vehicle} has to go {b} kilometers", "{vehicle} going {b} kilometers"),
            {"b": r"(\d+)\s+kilometers(?!\s+(?:an|per)\s+hour)"},
            "How many kilometers is it?",
        ),
        Clause(
            ("It goes {a} kilometers an hour.", "Its speed is {a} kilometers an hour."),
            ("at {a} kilometers an hour", "speed {a} kilometers per hour"),
            {"a": SPEED},
            "How fast does it go?",
        ),
    ),
    (
        Ask(
            ("How many hours does it need?", "After how many hours does it arrive?"),
            ("how many hours", "how long does it take"),
            "many hours|how long",
            lambda f, w: w.div(f["b"], f["a"]),
            (
                Catch(
                    Clause(
                        ("It rests {c} hours on the way.", "Halfway it rests {c} hours."),
                        ("rests {c} hours", "rests {c}"),
                        {"c": r"rests\s+(\d+)"},
                    ),
                    lambda f, w: w.add(w.div(f["b"], f["a"]), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (5, 80), "b": (20, 900), "c": (1, 6)},
)

PUMP = Schema(
    "pump",
    "sample_motion",
    TANKS,
    (
        Clause(
            ("A pump moves {a} liters a minute into a {tank}.", "Into a {tank}, a pump moves {a} liters a minute."),
            ("pump {a} liters a minute into a {tank}", "{tank}, pump with {a} liters a minute"),
            {"a": r"(\d+)\s+liters\s+(?:a|per)\s+minute"},
            "How many liters does the pump move a minute?",
        ),
        Clause(
            ("It runs for {b} minutes.", "The pump runs for {b} minutes."),
            ("for {b} minutes", "{b} minutes"),
            {"b": _number("minutes", 1)},
            "How many minutes does it run?",
        ),
    ),
    (
        Ask(
            ("How many liters are in it then?", "How many liters does the {tank} hold in the end?"),
            ("how many liters then", "how many liters in the end"),
            "then|end",
            lambda f, w: w.mul(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("It already held {c} liters.", "Before, it already held {c} liters."),
                        ("already held {c}", "already held {c} liters"),
                        {"c": r"already\s+held\s+(\d+)"},
                    ),
                    lambda f, w: w.add(w.mul(f["a"], f["b"]), f["c"]),
                ),
                Catch(
                    Clause(
                        ("A leak loses {c} liters of it.", "Meanwhile a leak loses {c} liters."),
                        ("leak loses {c}", "loses {c} liters"),
                        {"c": r"loses\s+(\d+)"},
                    ),
                    lambda f, w: w.sub(w.mul(f["a"], f["b"]), f["c"]),
                ),
            ),
        ),
    ),
    {"a": (4, 40), "b": (3, 24), "c": (2, 40)},
)

FAIR = Schema(
    "fair share",
    "sample_fairness",
    HELPERS,
    (
        Clause(
            ("The {a} {items} belong to all who helped.", "Whoever helped has a right to a share of the {a} {items}."),
            ("{a} {items}", "{a} {items} to share"),
            {"a": _number("{items}", 1)},
            "How many {items} are there?",
        ),
        Clause(
            ("There are {b} {group}.", "{P} counts {b} {group}."),
            ("{b} {group}", "for {b} {group}"),
            {"b": _number("{group}", 1)},
            "How many {group} are there?",
        ),
    ),
    (
        Ask(
            ("What is the fair share of each?", "How many are fair for each?"),
            ("fair share", "how many each is fair"),
            "fair",
            lambda f, w: w.div(f["a"], f["b"]),
            (
                Catch(
                    Clause(
                        ("{c} of them did not help.", "But {c} of them did not help."),
                        ("{c} of them did not help", "{c} did not help"),
                        {"c": _number("did not help")},
                    ),
                    lambda f, w: w.div(f["a"], w.sub(f["b"], f["c"])),
                ),
            ),
        ),
    ),
    {"a": (12, 300), "b": (4, 15), "c": (1, 5)},
)

LIMIT = Schema(
    "limit",
    "sample_fairness",
    CLUBS,
    (
        Clause(
            (
                "In the {club}, nobody may take more than {a} {items}.",
                "The {club} allows {a} {items} each, and not more than {a} {items}.",
            ),
            ("nobody may take more than {a} {items}", "not more than {a} {items}"),
            {"a": r"more\s+than\s+(\d+)"},
            "How many {items} may one take?",
        ),
        Clause(
            ("{P} takes {b} on Monday and {d} on Tuesday.", "On Monday {P} takes {b} and on Tuesday {d} on top."),
            ("takes {b} on Monday and {d} on Tuesday", "{P} takes {b} and {d}"),
            {"b": r"takes\s+(\d+)", "d": r"takes\s+\d+\s+(?:on\s+Monday\s+)?and\s+(?:on\s+Tuesday\s+)?(\d+)"},
            "How many are taken on each day?",
        ),
    ),
    (
        Ask(
            ("By how many does {P} break the rule?", "How many {items} too many are that?"),
            ("how many too many", "by how many is the rule broken"),
            "too many|broken|break",
            lambda f, w: w.sub(w.add(f["b"], f["d"]), f["a"]),
            (
                Catch(
                    Clause(
                        ("{P} gives {c} of them back.", "In the end {P} gives {c} of them back."),
                        ("gives {c} back", "gives {c} of them back"),
                        {"c": r"gives\s+(\d+)"},
                    ),
                    lambda f, w: w.sub(w.sub(w.add(f["b"], f["d"]), f["c"]), f["a"]),
                ),
            ),
        ),
    ),
    {"a": (3, 60), "b": (4, 60), "d": (4, 60), "c": (2, 9)},
)

SCHEMAS = (
    GROUPS, SHARE, GAIN_AND_LOSS, COLORS, ROWS,
    BUY, TWO_GOODS, CHANGE, WAGES,
    AREA, FENCE,
    DISTANCE, TRAVEL_TIME, PUMP,
    FAIR, LIMIT,
)  # fmt: skip
SUBSETS = tuple(dict.fromkeys(schema.subset for schema in SCHEMAS))
