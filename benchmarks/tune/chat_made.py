"""Conversations made from lists of words: arithmetic, memory, lists, sorting, reading, rules of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Conversation = list[dict[str, str]]
Words = dict[str, Any]

WORDS = Path(__file__).with_name("chat_words.json")
FACTS = Path(__file__).with_name("chat_facts.json")


def conversation(*turns: str, system: str | None = None) -> Conversation:
    """Turns of user and assistant in alternation, beginning with the user."""
    head = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return head + [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]


def facts() -> list[Conversation]:
    """Every fact in every wording."""
    found = []
    for table in json.loads(FACTS.read_text(encoding="utf-8")).values():
        for pair in table["pairs"]:
            known = pair.split("|")
            said = table["say"].format(*known)
            said = said[0].upper() + said[1:] if table["say"] != "{1}" else said
            found += [conversation(question.format(known[0]), said) for question in table["ask"]]
    return found


def arithmetic(random: Random, words: Words) -> Conversation:
    a, b = random.randint(2, 30), random.randint(2, 30)
    small, other = random.randint(2, 9), random.randint(2, 9)
    high, low = max(a, b) + 1, min(a, b)
    thing = random.choice(["apples", "coins", "books", "stamps", "eggs", "marbles"])
    number = random.randint(100, 999)
    turned = int(str(number)[0] + str(number)[:0:-1])
    cases = [
        (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
        (f"How much is {high} minus {low}?", f"{high} minus {low} is {high - low}."),
        (f"Multiply {small} by {other}.", f"{small} times {other} is {small * other}."),
        (f"What is half of {2 * a}?", f"Half of {2 * a} is {a}."),
        (f"What is {small * other} divided by {small}?", f"{small * other} divided by {small} is {other}."),
        (
            f"I have {high} {thing} and give away {low}. How many are left?",
            f"{high} - {low} = {high - low}, so {high - low} {thing} are left.",
        ),
        (
            f"There are {small} boxes with {other} {thing} each. How many {thing} are there?",
            f"{small} x {other} = {small * other}, so there are {small * other} {thing}.",
        ),
    ]
    if number != turned:
        cases.append((f"Which is larger: {number} or {turned}?", f"{max(number, turned)} is larger."))
    return conversation(*random.choice(cases))


def then_more(random: Random, words: Words) -> Conversation:
    a, b, c = (random.randint(2, 20) for _ in range(3))
    first = (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}.")
    follow = random.choice(
        [
            (f"Add {c} to that.", f"{a + b} plus {c} is {a + b + c}."),
            ("And twice as much?", f"Twice {a + b} is {2 * (a + b)}."),
            ("Now take one away.", f"{a + b} minus 1 is {a + b - 1}."),
        ]
    )
    return conversation(*first, *follow)


def memory(random: Random, words: Words) -> Conversation:
    """Something said, perhaps something else, and a question about the first."""
    name, other = random.sample(words["names"], 2)
    pet, city, town = random.choice(words["pets"]), *random.sample(words["cities"], 2)
    job, food, word = (random.choice(words[key]) for key in ("jobs", "foods", "code words"))
    day, age, years = random.choice(words["days"]), random.randint(18, 80), random.randint(18, 80)
    animal = random.choice(["dog", "cat", "rabbit", "parrot"])
    told, asked, known = random.choice(
        [
            (f"My name is {name}.", "What is my name?", f"Your name is {name}."),
            (f"I am {name} and I live in {city}.", "Where do I live?", f"You live in {city}."),
            (
                f"My {animal} is called {pet}.",
                f"What is my {animal}'s name?",
                f"Your {animal} is called {pet}.",
            ),
            (f"I work as a {job}.", "What do I do for a living?", f"You work as a {job}."),
            (f"I cannot eat {food}.", "Which food is bad for me?", f"You cannot eat {food}."),
            (f"The secret word is {word}.", "What is the secret word?", f"The secret word is {word}."),
            (f"{name} is {age} and {other} is {years}.", f"How old is {other}?", f"{other} is {years}."),
            (
                f"I moved from {city} to {town}.",
                "Where did I live before?",
                f"You lived in {city} before.",
            ),
            (f"{name} visits me on {day}.", f"When does {name} come?", f"{name} comes on {day}."),
            (f"I gave {name} a book and {other} a hat.", f"What did {other} get?", f"{other} got a hat."),
        ]
    )
    between = random.choice([[], [arithmetic, one_of_kind, spelling]])
    middle = [turn["content"] for turn in random.choice(between)(random, words)] if between else []
    return conversation(told, random.choice(words["acknowledged"]), *middle, asked, known)


def one_of_kind(random: Random, words: Words) -> Conversation:
    kind, members = random.choice(list(words["kinds"].items()))
    count = random.randint(2, 4)
    chosen = [member if kind == "European countries" else member.capitalize() for member in members]
    chosen = random.sample(chosen, count)
    number = {2: "two", 3: "three", 4: "four"}[count]
    asked = random.choice([f"Name {number} {kind}.", f"List {number} {kind}.", f"Give me {number} {kind}."])
    numbered = "\n".join(f"{place}. {one}" for place, one in enumerate(chosen, 1))
    return conversation(asked, numbered if asked[0] != "N" else ", ".join(chosen) + ".")


def sorting(random: Random, words: Words) -> Conversation:
    members = random.sample([one for kind in words["kinds"].values() for one in kind], random.randint(3, 4))
    shown = ", ".join(members)
    return conversation(
        f"Sort these words alphabetically: {shown}", ", ".join(sorted(members, key=str.lower))
    )


def spelling(random: Random, words: Words) -> Conversation:
    sentence = random.choice(words["sentences"])
    cases = [
        (f"Write this in capital letters: {sentence}", sentence.upper()),
        (f"Write this in small letters: {sentence.upper()}", sentence),
        (f"Put quotation marks around this: {sentence}", f'"{sentence}"'),
        (f"How many words are in this sentence? {sentence}", f"It has {len(sentence.split())} words."),
        (f"Repeat this exactly: {sentence}", sentence),
        (f"What is the last word of this sentence? {sentence}", sentence.split()[-1]),
    ]
    return conversation(*random.choice(cases))


def sentiment(random: Random, words: Words) -> Conversation:
    good = random.random() < 0.5
    text = random.choice(words["good" if good else "bad"])
    asked = random.choice(
        ["Is this review positive or negative?", "Positive or negative?", "Does the writer like it?"]
    )
    label = ("Yes." if good else "No.") if asked[0] == "D" else ("Positive" if good else "Negative")
    return conversation(f'{asked} "{text[0].upper()}{text[1:]}."', label)


def odd_one(random: Random, words: Words) -> Conversation:
    groups = ("fruits", "animals", "tools", "sports", "pieces of clothing", "drinks")
    kind, other = random.sample(groups, 2)
    members, stranger = random.sample(words["kinds"][kind], 3), random.choice(words["kinds"][other])
    shown = [*members, stranger]
    random.shuffle(shown)
    said = f'"{stranger.capitalize()}" does not fit, because the others are {kind}.'
    return conversation(f"Which word does not fit: {', '.join(shown)}?", said)


def reading(random: Random, words: Words) -> Conversation:
    """A short text, and what it says of one of two."""
    name, other = random.sample(words["names"], 2)
    city, day = random.choice(words["cities"]), random.choice(words["days"])
    thing, second = random.sample(words["things"], 2)
    price, cost = random.sample(range(5, 95), 2)
    meeting = f"{name} met {other} in {city} on {day}."
    prices = f"The {thing} costs {price} euros, the {second} {cost}."
    work, job = random.sample(words["jobs"], 2)
    jobs = f"{name} is a {work} and {other} is a {job}."
    text, question, said, short = random.choice(
        [
            (meeting, "Where did they meet?", f"They met in {city}.", city),
            (meeting, f"Whom did {name} meet?", f"{name} met {other}.", other),
            (meeting, "When was that?", f"That was on {day}.", day),
            (prices, f"How much is the {thing}?", f"The {thing} costs {price} euros.", str(price)),
            (prices, f"How much is the {second}?", f"The {second} costs {cost} euros.", str(cost)),
            (jobs, f"What is {other}'s job?", f"{other} is a {job}.", job.capitalize()),
        ]
    )
    if random.random() < 0.3:
        return conversation(f'Read this and answer in one word. "{text}" {question}', short)
    return conversation(random.choice([f'Text: "{text}" {question}', f'"{text}" {question}']), said)


def told_before(random: Random, words: Words) -> Conversation:
    """What a system message says, and a question about it."""
    opens, closes = random.randint(6, 11), random.randint(16, 22)
    shop = random.choice(["shop", "pool", "library", "café", "museum", "office"])
    name = random.choice(words["names"])
    hours = f"The {shop} opens at {opens} and closes at {closes}."
    named = f"You are {name}, the assistant of a {shop}."
    who = f"I am {name}, the assistant of the {shop}. How can I help you?"
    fact = random.choice([one for one in facts() if len(one[-1]["content"]) < 60])
    cases = [
        conversation("When do you open?", f"We open at {opens}.", system=hours),
        conversation("Until when are you open?", f"We are open until {closes}.", system=hours),
        conversation("Who are you?", who, system=named),
        conversation("What are you called?", f"I am called {name}.", system=named),
        conversation("Hello!", f"Hello {name}! How can I help you?", system=f"The user is called {name}."),
        conversation(fact[0]["content"], fact[1]["content"].upper(), system="Use capital letters only."),
        conversation(fact[0]["content"], fact[1]["content"], system="You are a helpful assistant."),
    ]
    return random.choice(cases)


MADE: dict[Callable[[Random, Words], Conversation], int] = {
    arithmetic: 180,
    then_more: 60,
    memory: 280,
    one_of_kind: 80,
    sorting: 60,
    spelling: 80,
    sentiment: 36,
    odd_one: 50,
    reading: 160,
    told_before: 140,
}
"""How many of each are drawn."""


def made(random: Random) -> list[Conversation]:
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    return [maker(random, words) for maker, count in MADE.items() for _ in range(count)]
