"""The word lists of the built-in task. Each word is one token of r0-tiny (with its leading space)."""

from __future__ import annotations


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


# Concepts and distractors come from the same list, so a word alone does not reveal its role.
NOUNS: tuple[str, ...] = words_of(
    """
    river harbor tax garden engine winter market bridge forest island copper salt wheat wool silk paper glass iron coal
    timber honey sugar coffee tea rice corn barley cotton leather marble clay sand gold silver tin lead zinc steel brick
    stone school temple palace castle tower prison hospital library museum theater factory mill mine quarry farm ranch
    orchard vineyard meadow valley canyon desert glacier volcano lake ocean coast reef delta swamp canal dam well spring
    fountain road railway tunnel airport station ferry ship canoe wagon bicycle truck tram horse camel donkey sheep goat
    cow pig hen goose duck eagle falcon owl raven sparrow salmon trout herring whale seal shark turtle frog snake lizard
    spider beetle ant bee moth worm wolf fox bear deer rabbit mouse lion tiger elephant monkey parrot oak pine maple
    willow cedar birch palm bamboo fern moss rose lily tulip daisy apple pear plum cherry grape lemon orange melon olive
    onion garlic pepper carrot potato tomato bean lentil bread cheese butter soup wine beer vinegar oil soap candle lamp
    mirror clock compass map coin stamp letter book poem song drum flute violin piano dance mask painting statue carpet
    blanket coat shoe ring crown sword shield rope net hammer saw needle wheel ladder door window roof wall floor chair
    table bed basket bottle barrel kettle knife law court treaty army navy council senate guild bank loan rent wage
    trade debt price budget vote census plague fever vaccine famine flood drought storm fog snow rain wind fire moon
    comet star planet magnet lens pump valve boiler turbine battery cable antenna rocket
    """
)

# A sentence ends with "in PLACE"; a document uses each place once, so the place identifies the sentence.
PLACES: tuple[str, ...] = words_of(
    """
    Rome Paris London Berlin Madrid Vienna Prague Warsaw Athens Cairo Delhi Tokyo Lima Quito Havana Boston Dublin Oslo
    Geneva Milan Venice Naples Lisbon Munich Zurich Moscow Kiev Tunis Lagos Nairobi Kenya Egypt Spain France Italy
    Greece Turkey India China Japan Korea Brazil Chile Peru Cuba Mexico Canada Texas January March April June July
    August October November
    """
)

# Verbs that relate two things.
RELATIONS: tuple[str, ...] = words_of(
    """
    shapes drives feeds limits guides raises lowers protects weakens replaces supports creates funds moves follows
    controls needs shares changes explains
    """
)

# Verbs without an object.
STATES: tuple[str, ...] = words_of("rests waits grows fades sleeps stands ages shines remains stays returns vanishes")

# A query never begins with a concept, so it does not matter how a tokenizer joins "Query: " and the query.
PAIR_QUERIES: tuple[str, ...] = (
    "How are {0} and {1} linked?",
    "What links {0} with {1}?",
    "Does {0} relate to {1}?",
    "About {0} and {1}",
)
TRIPLE_QUERIES: tuple[str, ...] = (
    "How are {0}, {1} and {2} linked?",
    "What links {0} with {1} and {2}?",
    "Does {0} relate to {1} and {2}?",
    "About {0}, {1} and {2}",
)
