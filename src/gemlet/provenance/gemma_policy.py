"""The uses that Gemma's terms forbid, as data, and which of them a description of a product may touch.

In our own words; the text that binds is at `SOURCE` (as of `VERSION`), a part of the terms by section 3.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SOURCE = "https://ai.google.dev/gemma/prohibited_use_policy"
VERSION = "2024-02-21"


@dataclass(frozen=True)
class ProhibitedUse:
    """A forbidden use. `section`: its place in the policy. `keywords`: word beginnings that hint at it."""

    id: str
    section: str
    text: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class UseMatch:
    """A forbidden use and the words of a description that hint at it."""

    use: ProhibitedUse
    words: tuple[str, ...]


PROHIBITED_USES = (
    ProhibitedUse(
        "rights",
        "1",
        "content that violates someone's rights, copyright among them",
        ("copyright", "pirat", "plagiari", "lyrics", "trademark", "counterfeit", "infring"),
    ),
    ProhibitedUse(
        "child-safety",
        "2.a.i",
        "anything to do with the sexual abuse or exploitation of children",
        ("child sex", "child abuse", "underage", "minors"),
    ),
    ProhibitedUse(
        "illegal-goods",
        "2.a.ii",
        "selling, making or getting illegal substances, goods or services",
        ("drug", "narcotic", "weapon", "explosive", "firearm", "black market", "darknet"),
    ),
    ProhibitedUse(
        "crime",
        "2.a.iii",
        "encouraging crimes of any kind",
        ("crime", "criminal", "burglar", "illegal", "theft"),
    ),
    ProhibitedUse(
        "extremism", "2.a.iv", "violent extremism or terrorist content", ("terror", "extremis", "radicali")
    ),
    ProhibitedUse(
        "professions",
        "2.b, 3.f",
        "practising a profession without the licence it needs: law, medicine, accounting, finance and others",
        (
            "legal",
            "lawyer",
            "attorney",
            "law firm",
            "medical",
            "medicine",
            "doctor",
            "diagnos",
            "patient",
            "clinic",
            "therap",
            "symptom",
            "treatment",
            "accounting",
            "accountant",
            "tax",
            "financial",
            "invest",
            "pharma",
            "psycholog",
            "triage",
        ),
    ),
    ProhibitedUse(
        "spam",
        "2.c.i",
        "making or spreading spam",
        ("spam", "bulk mail", "mass mail", "bulk email", "mass email", "cold email", "unsolicited"),
    ),
    ProhibitedUse(
        "fraud",
        "2.c.ii",
        "content for deception, fraud, scams, phishing or malware",
        (
            "phish",
            "scam",
            "fraud",
            "malware",
            "ransomware",
            "exploit",
            "virus",
            "trojan",
            "hack",
            "social engineer",
        ),
    ),
    ProhibitedUse(
        "circumvention",
        "2.d",
        "getting around safety filters, or driving the model to act against the policy",
        ("jailbreak", "uncensor", "unfiltered", "abliterat", "bypass", "circumvent", "no filter"),
    ),
    ProhibitedUse("hatred", "2.e.i", "content that promotes hatred", ("hate", "hatred", "racis", "supremac")),
    ProhibitedUse(
        "harassment",
        "2.e.ii",
        "harassing, bullying, intimidating or insulting others",
        ("harass", "bully", "insult", "intimidat", "troll"),
    ),
    ProhibitedUse(
        "violence", "2.e.iii", "content that promotes violence", ("violen", "gore", "attack people")
    ),
    ProhibitedUse(
        "self-harm", "2.e.iv", "content that encourages self-harm", ("self-harm", "self harm", "suicid")
    ),
    ProhibitedUse(
        "personal-data",
        "2.e.v, 2.e.viii",
        "personal data made to be spread or to harm; sensitive data without the consents the law asks for",
        (
            "personal data",
            "personal information",
            "personally identif",
            "dox",
            "health record",
            "scrape profile",
            "biometric",
            "ethnicity",
            "sexual orientation",
        ),
    ),
    ProhibitedUse(
        "surveillance",
        "2.e.vi",
        "tracking or watching people without their consent",
        ("surveil", "track", "monitor employee", "monitor people", "spy", "stalk", "monitor worker"),
    ),
    ProhibitedUse(
        "unfair-impact",
        "2.e.vii",
        "content with unfair effects on people, above all by protected characteristics",
        ("discriminat", "profiling", "ethnic", "gender", "religion", "disab"),
    ),
    ProhibitedUse(
        "provenance",
        "3.a",
        "passing generated content off as made by a person, in order to deceive",
        (
            "fake review",
            "ghostwrit",
            "pass as human",
            "undetectable",
            "humanize",
            "essay for student",
            "testimonial",
        ),
    ),
    ProhibitedUse(
        "impersonation",
        "3.b",
        "speaking as a real person without saying so, in order to deceive",
        ("impersonat", "deepfake", "celebrity", "pretend to be", "in the voice of"),
    ),
    ProhibitedUse(
        "false-expertise",
        "3.c",
        "misleading claims of expertise in sensitive areas such as health, finance, government or law",
        ("expert advice", "certified", "health advice", "medical advice", "legal advice", "financial advice"),
    ),
    ProhibitedUse(
        "automated-decisions",
        "3.d",
        "deciding without a person about someone's rights or well-being: finance, law, employment, health, "
        "housing, insurance, social welfare",
        (
            "credit",
            "loan",
            "hiring",
            "recruit",
            "applicant",
            "candidate",
            "cv screen",
            "resume",
            "employ",
            "insurance",
            "claims",
            "housing",
            "tenant",
            "welfare",
            "benefits",
            "eligib",
            "parole",
            "underwrit",
            "mortgage",
            "automated decision",
        ),
    ),
    ProhibitedUse("defamation", "3.e", "defamatory content", ("defam", "slander", "libel", "smear")),
    ProhibitedUse(
        "misinformation",
        "3",
        "content meant to misinform or mislead",
        ("disinformation", "misinformation", "fake news", "propaganda", "astroturf", "election"),
    ),
    ProhibitedUse(
        "sexual",
        "4",
        "sexually explicit content (science, education, documentary and art excepted)",
        ("sexual", "porn", "erotic", "nsfw", "adult content", "explicit content"),
    ),
)


def match_uses(description: str) -> tuple[UseMatch, ...]:
    """The forbidden uses that words of a product's description hint at: a keyword match, nothing more."""
    text = re.sub(r"\s+", " ", description.lower())
    found = []
    for use in PROHIBITED_USES:
        words = [
            match[0]
            for keyword in use.keywords
            if (match := re.search(rf"(?<![a-z]){re.escape(keyword)}[a-z-]*", text))
        ]
        if words:
            found.append(UseMatch(use, tuple(dict.fromkeys(words))))
    return tuple(found)
