"""Sort sentences into classes by probability, without generating text. Usage: classify.py [MODEL]

Every label is scored as the continuation of the same prompt; the shares are the model's, among these labels.
"""

import math
import sys

import gemlet

PROMPT = """Review: "The soup was cold." Feeling: negative
Review: "What a lovely evening!" Feeling: positive
Review: "{sentence}" Feeling:"""
LABELS = (" positive", " negative")
SENTENCES = ("I would come back any time.", "We waited an hour and then left.", "The best bread in town.")


def main() -> None:
    reference = sys.argv[1] if len(sys.argv) > 1 else None
    with gemlet.load(reference) as model:
        for sentence in SENTENCES:
            prompt = PROMPT.format(sentence=sentence)
            scores = model.score_many([(prompt, label) for label in LABELS])
            weights = [math.exp(score.logprob) for score in scores]
            best = max(range(len(LABELS)), key=weights.__getitem__)
            print(f"{weights[best] / sum(weights):4.0%} {LABELS[best].strip()}: {sentence}")


if __name__ == "__main__":
    main()
