"""What `gllm eval agreement` compares without the user's own: prose, figures, code, German."""

PROMPTS = (
    "The capital of France is",
    "Water boils at a lower temperature on a mountain because",
    "Once upon a time there was a lighthouse keeper who",
    "The three laws of motion say that",
    "def fibonacci(n):\n",
    "Question: A train travels 60 km in 45 minutes. What is its speed?\nAnswer:",
    "Dear Ms. Meyer,\n\nthank you for your letter of",
    "Ingredients for four people: 500 g of flour,",
    "1, 1, 2, 3, 5, 8,",
    "SELECT country, COUNT(*) FROM users",
    "Die Hauptstadt von Deutschland ist",
    "The main difference between a virus and a bacterium is",
    "import json\n\nwith open('data.json') as file:\n",
    "In 1969, two astronauts",
    "To be a good listener, you should",
    "| name | age |\n|---|---|\n| Anna | 31 |\n",
)

TEXT = """\
The ferry left the harbour at half past six, an hour later than the timetable promised. Nobody on board seemed \
to mind. A group of students slept on their rucksacks, two old men played chess with bottle caps in place of the \
missing pawns, and a woman in a green coat wrote postcards that she would send from the next island. The captain \
had announced a calm crossing. By eight the wind had turned to the north-west, and the cups on the counter of \
the small bar began to slide.

A heat pump moves heat from a cold place to a warm one. It needs work for this, since heat does not flow uphill \
by itself. A fluid evaporates at low pressure and takes up heat from the outside air; a compressor raises its \
pressure and temperature; in the condenser it gives the heat to the water of the radiators and becomes liquid \
again. For each kilowatt hour of electricity, a good machine delivers three to five kilowatt hours of heat. The \
colder the air and the hotter the water, the smaller this ratio becomes, which is why large radiators with \
lukewarm water are an advantage.

Year    Visitors    Income
2019    48,210      $ 391,400
2020    11,975      $  97,020
2021    26,340      $ 214,800
2022    45,116      $ 402,950

def mean(values):
    if not values:
        raise ValueError("the mean of no values is not defined")
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

The committee met on Tuesday to discuss the new bridge. Its cost had risen from 14 to 19 million, chiefly \
because the ground on the eastern bank is softer than the first survey had shown. Three members proposed a \
lighter bridge for pedestrians and bicycles only; the mayor replied that the bus to the hospital needs ten \
minutes more without the direct road. After two hours the decision was postponed until a second opinion on the \
foundations is available.

Am Morgen lag dichter Nebel im Tal. Erst gegen elf Uhr kam die Sonne durch, und man konnte vom Turm aus den See \
sehen. Die Wanderer waren früh aufgebrochen, weil der Weg lang ist und es oben kein Wasser gibt.

Q: Why does bread become stale even in a closed bag?
A: Staling is not only drying. The starch in the crumb slowly returns to an ordered, crystalline form and binds \
water that made the crumb soft. Warmth reverses part of this, so old bread tastes fresh again for a while after \
toasting. In the refrigerator starch crystallizes faster than at room temperature, whereas freezing almost stops \
the process.
"""
