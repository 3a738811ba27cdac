"""The model asks for a function, and goes on with its result. Usage: call_a_tool.py [MODEL [QUESTION]]"""

import json
import sys
from typing import Any

import gemlet

QUESTION = "How many boxes of plums are in the store?"
STOCK = {"apples": 120, "pears": 0, "plums": 35}
FRUIT = {"type": "object", "properties": {"fruit": {"enum": sorted(STOCK)}}, "required": ["fruit"]}
TELLS = "The number of boxes of a fruit that are in the store."
TOOLS = [{"type": "function", "function": {"name": "get_stock", "description": TELLS, "parameters": FRUIT}}]


def main() -> None:
    reference = sys.argv[1] if len(sys.argv) > 1 else None
    question = sys.argv[2] if len(sys.argv) > 2 else QUESTION
    print(f"> {question}")
    messages: list[Any] = [{"role": "user", "content": question}]
    with gemlet.load(reference) as model:
        for _ in range(3):  # a small model may ask again and again
            answer = model.chat(
                messages, tools=TOOLS, parallel_tool_calls=False, temperature=0, max_tokens=60
            )
            print(answer.text, end="\n" if answer.text else "")
            if answer.finish_reason != "tool_calls":
                break
            messages.append(gemlet.Message("assistant", answer.text, answer.tool_calls))
            for call in answer.tool_calls:
                boxes = STOCK[json.loads(call.arguments)["fruit"]]  # one of them: the schema is kept
                print(f"{call.name}({call.arguments}) = {boxes}")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": str(boxes)})


if __name__ == "__main__":
    main()
