"""`gemlet bench`: measuring models. Each of its verbs is a file of its own, cli/bench_VERB.py."""

from __future__ import annotations

DESCRIPTION = "Measure a model on this machine."
EXAMPLES = ("gemlet bench speed", "gemlet bench speed --quick")
VERBS = {"speed": "tokens a second, memory, and how near both are to what the machine allows"}
