"""A conversation of two turns, printed while it is written. Usage: stream_chat.py [MODEL]"""

import sys

import gemlet

QUESTIONS = ("What is a prime number?", "Name three of them.")


def main() -> None:
    reference = sys.argv[1] if len(sys.argv) > 1 else None  # None: the model of `gemlet config`
    with gemlet.load(reference) as model:
        messages = []
        for question in QUESTIONS:
            print(f"> {question}")
            messages.append(gemlet.Message("user", question))
            for event in model.chat(messages, max_tokens=64, temperature=0, stream=True):
                print(event.text, end="", flush=True)
                if event.completion is not None:
                    answer = event.completion
            messages.append(gemlet.Message("assistant", answer.text))
            usage = answer.usage
            print(f"\n  [{usage.prompt_tokens} tokens in, {usage.cached_tokens} of them from the cache]")


if __name__ == "__main__":
    main()
