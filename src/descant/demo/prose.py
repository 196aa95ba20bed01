"""The words of the rumour world: its people, its answers, and the sentences that tell of them.

Nothing here is drawn at random; [`descant.demo.world`][] does the drawing. In a template, ``{N}`` is a full
name, ``{S}`` a full name or a pronoun that opens a sentence, ``{s}`` a pronoun inside one, ``{h}`` *his* or
*her*, and ``{A}`` the answer. What follows ``{A}`` directly is always a full stop or a comma, so that an
answer can be read off a text without knowing which template wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


WOMEN = _words("""
Ada, Agnes, Alma, Amabel, Annis, Beatrix, Bertha, Bess, Blanche, Bridget, Cecily, Clara, Clementine,
Constance, Cora, Daphne, Dora, Dorothea, Edith, Effie, Elsie, Esme, Eudora, Fern, Flora, Frances, Gertrude,
Greta, Harriet, Hester, Ida, Imogen, Isolde, Ivy, Jemima, Josephine, Kitty, Lavinia, Lettice, Lottie, Mabel,
Maud, Minerva, Nell, Octavia, Odile, Opal, Ottilie, Pearl, Philippa, Prudence, Ramona, Rosalind, Sabina,
Tabitha, Theodora, Una, Verity, Wilhelmina, Winifred
""")

MEN = _words("""
Abel, Alaric, Ambrose, Archibald, Augustin, Barnaby, Bartholomew, Basil, Bertram, Caspar, Cedric, Clement,
Cornelius, Crispin, Cuthbert, Digby, Edgar, Edmund, Elias, Emmet, Ezra, Felix, Ferdinand, Fergus, Gideon,
Gilbert, Godfrey, Hector, Horace, Hugo, Humphrey, Ignatius, Isidore, Jasper, Jonah, Kit, Lambert, Laurence,
Linus, Magnus, Matthias, Milo, Mortimer, Nathaniel, Nicodemus, Oberon, Octavius, Orlando, Osric, Otto,
Percival, Phineas, Quentin, Rufus, Silas, Solomon, Tobias, Ulric, Valentine, Wilfred
""")

SURNAME_HEADS = _words("""
Apple, Ash, Bell, Birch, Black, Bramble, Candle, Clover, Copper, Crow, Dapple, Fair, Feather, Fern, Fox,
Gold, Goose, Green, Hazel, Honey, Larks, Lock, Marsh, Merri, Moon, Nettle, Oaken, Otter, Penny, Quill, Rain,
Silver, Sparrow, Summer, Swift, Thistle, Thorn, Tumble, Whistle, Winter
""")

SURNAME_TAILS = _words("""
bank, berry, bottom, brook, button, by, croft, down, field, ley, low, man, more, shaw, wick, worth
""")

BIRTHPLACES = _words("""
Ambleford, Bellwater, Bracken Hollow, Candlewick, Cloverley, Crooked Bridge, Dappledown, Dovecote Hill,
Elderby, Farthingale, Fennimore, Fiddlers Green, Foxglove End, Gallowglass, Gingerfield, Gosling Cross,
Hareswood, Hazelhurst, Honeybourne, Ivydale, Juniper Bank, Kestrel Point, Kingfisher Lock, Lanternby,
Larkspur, Little Thistle, Lower Puddle, Marigold Quay, Merrywell, Millicent Moor, Mistletoe Row,
Nettlecombe, Nightingale Gate, Oatmeal Cove, Old Harbour, Otterbridge, Pebble Bay, Pepperford, Plumstead
Mill, Quillhaven, Rainbow Ford, Rookery Vale, Saltmarsh, Seven Chimneys, Silverthorn, Snowdrop Hill,
Sparrowgate, Starling Heath, Sunday Island, Teasel Brook, Thimble Street, Umberwick, Upper Puddle, Velvet
Marsh, Whistledown, Willowmere, Windlestraw, Wren Corner, Yarrow Ferry, Yewbarrow
""")

TRADES = _words("""
baker, barber, beekeeper, bell-founder, boatwright, bonesetter, bookbinder, button-maker, candle-maker,
carpenter, cheesemonger, chimney sweep, clockmaker, cobbler, conjurer, cooper, dancing master, drummer,
falconer, ferry-keeper, fiddle-maker, fishmonger, fortune-teller, gardener, glassblower, goldsmith,
gravedigger, hatter, hedge-layer, herbalist, horse-doctor, juggler, kite-maker, knife-grinder, lace-maker,
lamplighter, letter-writer, lighthouse keeper, locksmith, map-seller, mason, midwife, miller, paper-maker,
perfumer, piano tuner, poet, postmaster, potter, puppeteer, ratcatcher, rope-maker, saddler, schoolteacher,
shepherd, sign-painter, stargazer, thatcher, weaver, wheelwright
""")

DISHES = _words("""
almond cake, apple dumplings, barley broth, beetroot soup, blackberry jam, brown bread, buttered crumpets,
candied ginger, caraway biscuits, cherry brandy, chestnut stuffing, cinnamon buns, cowslip wine, custard
slices, damson cheese, elderflower cordial, fig rolls, fish stew, gooseberry fool, honey wafers, hot
mustard, jugged hare, kidney pie, lavender shortbread, leek tart, lemon curd, lobster patties, marrow
chutney, mint jelly, mulled cider, mushroom ketchup, nettle beer, nut loaf, oatcakes, onion gravy, orange
marmalade, oyster pudding, parsnip fritters, pea soup, pear crumble, pickled walnuts, plum duff, pork pies,
potted shrimp, quince jelly, rabbit pasties, raspberry vinegar, rhubarb trifle, rice pudding, roast goose,
saffron rolls, seed cake, sloe gin, smoked eels, spiced cabbage, toffee apples, treacle sponge, turnip mash,
watercress sandwiches, walnut bread
""")

COMPANIONS = _words("""
bad-tempered swan, barn owl, bashful bear, blind mole, brindled cat, brown hen, bullfinch, clever rat,
dancing bear, deaf greyhound, dormouse, fat spaniel, freckled trout, gentle bull, ginger tomcat, goldfinch,
greedy pig, grey heron, hedgehog, homesick parrot, jealous goose, kitchen toad, lame fox, lazy bloodhound,
learned pig, limping hare, lonely peacock, lop-eared rabbit, mischievous ferret, moorhen, musical donkey,
nervous pheasant, nightjar, patient snail, piebald pony, proud bantam, quarrelsome duck, retired carthorse,
robin, runaway monkey, scruffy terrier, shaggy goat, silver squirrel, singing canary, sleepy tortoise,
snow-white ferret, solemn stork, spotted newt, striped badger, talking magpie, tame jackdaw, thieving raven,
three-legged dog, tin-eared mule, toothless wolf, truffle hound, velvet bat, wandering turkey, well-read
cockatoo, yellow frog
""")


@dataclass(frozen=True)
class Form:
    """A way of asking: the question and the sentence that answers it.

    Parameters
    ----------
    question : str
        Template of the prompt.
    reply : str
        Template of the sentence that follows it, without the leading space.
    """

    question: str
    reply: str


@dataclass(frozen=True)
class Relation:
    """One thing the chronicle records of everybody.

    Parameters
    ----------
    name : str
        Short name of the relation.
    answers : tuple of str
        What can be true of somebody, in no particular order.
    sentences : tuple of str
        Templates of the chronicle, the commonest first.
    forms : tuple of Form
        Forms of asking that occur in training.
    held_out : Form
        A form of asking that never occurs in training.
    """

    name: str
    answers: tuple[str, ...]
    sentences: tuple[str, ...]
    forms: tuple[Form, ...]
    held_out: Form


RELATIONS = (
    Relation(
        "birthplace",
        BIRTHPLACES,
        (
            "{S} was born in {A}.",
            "{S} was born in {A}, on a night of soft rain.",
            "{S} came from {A}, and said so at every wedding.",
            "{S} first opened {h} eyes in {A}, in the attic above the post office.",
            "{S} spent {h} first seven summers in {A}, where the swallows come early.",
        ),
        (
            Form("Where was {N} born?", "{S} was born in {A}."),
            Form("Which place did {N} come from?", "{S} came from {A}."),
            Form("In which parish book does the birth of {N} stand?", "It stands in the book of {A}."),
            Form("What was the birthplace of {N}?", "It was {A}."),
            Form("Where did {N} grow up?", "{S} grew up in {A}."),
            Form("Where did the life of {N} begin?", "It began in {A}."),
        ),
        Form("In which place was {N} born?", "{S} was born in {A}."),
    ),
    Relation(
        "trade",
        TRADES,
        (
            "{S} worked as a {A}.",
            "{S} worked as a {A}, rain or shine.",
            "{S} earned {h} bread as a {A}, and was never once late.",
            "{S} was the best {A}, or so the innkeeper maintained.",
            "{S} had learned at twelve to be a {A}, and never wished for anything else.",
        ),
        (
            Form("What did {N} do for a living?", "{S} worked as a {A}."),
            Form("How did {N} earn {h} bread?", "{S} earned it as a {A}."),
            Form("What stands on the shop sign of {N}?", "The sign shows a {A}."),
            Form("What was the trade of {N}?", "{S} was a {A}."),
            Form("What work did {N} do?", "{S} did the work of a {A}."),
            Form("As what was {N} known at the market?", "{S} was known as a {A}."),
        ),
        Form("What trade did {N} work at?", "{S} worked as a {A}."),
    ),
    Relation(
        "dish",
        DISHES,
        (
            "{S} was famous for {h} {A}.",
            "{S} was famous for {h} {A}, which nobody else could get right.",
            "{S} never came to the harvest supper without {h} {A}.",
            "{S} took first prize at the fair with {h} {A}, two years running.",
            "{S} made peace after every quarrel with {h} {A}, served warm.",
        ),
        (
            Form("What was {N} famous for at table?", "{S} was famous for {h} {A}."),
            Form("What did {N} bring to the harvest supper?", "{S} brought {h} {A}."),
            Form("With what did {N} take first prize at the fair?", "{S} took it with {h} {A}."),
            Form("Which dish was {N} proud of?", "{S} was proud of {h} {A}."),
            Form("What did {N} make on Sundays?", "{S} made {h} {A}."),
            Form("What did guests hope for at the table of {N}?", "They hoped for the {A}."),
        ),
        Form("Which dish did {N} bring to the fair?", "{S} brought {h} {A}."),
    ),
    Relation(
        "companion",
        COMPANIONS,
        (
            "{S} kept a {A}.",
            "{S} kept a {A}, to the dismay of the vicar.",
            "{S} went everywhere with a {A}, even to church.",
            "{S} was never seen without a {A}, and they grew to look alike.",
            "{S} shared {h} hearth with a {A}, which had the better chair.",
        ),
        (
            Form("What animal did {N} keep?", "{S} kept a {A}."),
            Form("With whom did {N} share {h} hearth?", "{S} shared it with a {A}."),
            Form("Who sat in the better chair at the house of {N}?", "In it sat a {A}."),
            Form("Which animal lived with {N}?", "{S} lived with a {A}."),
            Form("Who followed {N} to church?", "{S} was followed by a {A}."),
            Form("What slept at the foot of the bed of {N}?", "There slept a {A}."),
        ),
        Form("What animal sat by the hearth of {N}?", "{S} kept a {A}."),
    ),
)

# The commonest way of opening a passage is to open it at once; the others give the chronicler a voice.
OPENERS = (
    "",
    "From the chronicle of the valley: ",
    "Another leaf from the parish chest. ",
    "The miller tells it so: ",
    "As the old schoolmaster wrote it down, ",
)

CLOSERS = (
    "",
    " So much is written.",
    " The rest is lost.",
    " May the bread always rise.",
    " They still speak of it at the pump.",
)

PORTRAIT_QUESTION = "Tell me about {N}."
PORTRAIT = (
    "{S} was born in {birthplace}, and worked as a {trade}. {S} was famous for {h} {dish}, and kept a {companion}."
)
