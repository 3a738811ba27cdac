"""Show how sure the model was of each token it wrote. Usage: certainty.py [MODEL [PROMPT]]"""

import math
import sys

import gemlet

PROMPT = "The days of the week are Monday, Tuesday,"


def main() -> None:
    reference = sys.argv[1] if len(sys.argv) > 1 else None
    prompt = sys.argv[2] if len(sys.argv) > 2 else PROMPT
    with gemlet.load(reference) as model:
        completion = model.generate(prompt, max_tokens=16, temperature=0, logprobs=2)
    print(prompt)
    for chosen in completion.logprobs or ():
        others = [other for other in chosen.top if other.token_id != chosen.token_id]
        instead = f"  instead of {others[0].token!r} {math.exp(others[0].logprob):.0%}" if others else ""
        print(f"{math.exp(chosen.logprob):4.0%} {chosen.token!r}{instead}")


if __name__ == "__main__":
    main()
