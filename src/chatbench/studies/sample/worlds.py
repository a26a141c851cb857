"""The vocabulary of the word problems: who, what and where.

Every world is a mapping from slot to word. Plurals are spelt out, because a solver finds numbers by the plural that
follows them.
"""

from __future__ import annotations

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

ROWS = _worlds(
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
