"""How well a model does a demonstration's task, with Wilson intervals, into benchmarks/results/.

    python -m benchmarks.tune.score intents -m embedded --name base-few-shot --shots 12
    python -m benchmarks.tune.score intents -m embedded+.cache/tune/intents-adapter --name tuned
    python -m benchmarks.tune.score chat -m embedded --name base-frame

--shots shows the model examples of the training data: the same ones each time, or with --nearest those whose
questions share most words with the one asked. Answers are greedy. Each is also written to --answers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import gemlet
from benchmarks.results_file import write_result
from benchmarks.tune.answers import Answer, Frame, ask, nearest
from benchmarks.tune.data_files import read_lines, scored_path, write_lines
from benchmarks.tune.judges import (
    Row,
    Verdict,
    chat_groups,
    fix_groups,
    intent_groups,
    judge_chats,
    judge_fixes,
    judge_intents,
)
from gemlet.statistics.intervals import wilson
from gemlet.store.references import resolve

DATA = Path(".cache/tune")


@dataclass(frozen=True)
class Task:
    """`judge`: of rows and their answers. `groups`: what a row is measured with. `limit`: questions."""

    frame: Frame
    judge: Callable[[Sequence[Row], Sequence[Answer]], list[Verdict]]
    groups: Callable[[Row], Sequence[str]]
    max_tokens: int
    limit: int
    example_length: int = 10**9


TASKS = {
    "intents": Task(
        Frame("Voice commands for a home, and what they mean in JSON.", "Command: ", "JSON: ", ("\n",)),
        judge_intents,
        intent_groups,
        max_tokens=96,
        limit=300,
    ),
    "lint": Task(
        Frame("Python that ruff complains of, and the fix.", "### Problem\n", "### Fixed\n", ("###",)),
        judge_fixes,
        fix_groups,
        max_tokens=384,
        limit=150,
        example_length=600,
    ),
    "chat": Task(Frame("", "", "", ()), judge_chats, chat_groups, max_tokens=200, limit=200),
}


def main() -> None:
    args = _arguments()
    task, folder = TASKS[args.task], args.data or DATA / args.task
    rows = read_lines(scored_path(folder))[: args.limit or task.limit]
    questions = [asked(row["messages"]) for row in rows]
    known = [row["messages"] for row in read_lines(folder / "train.jsonl")] if args.shots else []
    shots = choose_shots(task, known, questions, args.shots, args.nearest, args.seed)
    with gemlet.load(args.model, threads=args.threads, draft=False) as model:
        begun = time.monotonic()
        answers = ask(model, questions, shots, task.frame, task.max_tokens)
        seconds = time.monotonic() - begun
    verdicts = task.judge(rows, answers)
    lines = measure(task, rows, verdicts)
    for line in lines:
        print(
            f"{line['group']:12} {line['measure']:20} {line['share']:.3f} "
            f"({line['low']:.3f} to {line['high']:.3f}), n {line['n']}"
        )
    if args.answers:
        pairs = zip(rows, answers, verdicts, strict=True)
        write_lines(
            args.answers, [{**row, "answer": answer.text, **verdict} for row, answer, verdict in pairs]
        )
    base = resolve(args.model)
    settings = {"candidate": args.name, "shots": args.shots, "nearest": args.nearest, "seed": args.seed}
    settings |= {"max_tokens": task.max_tokens, "seconds": round(seconds, 1)}
    files = [base.path]
    if base.adapter:
        files.append(base.adapter / "adapter_model.safetensors")
        settings["tuning"] = tuning(base.adapter)
    print(write_result(f"tune-{args.task}-{args.name}", lines, models=files, settings=settings))


def tuning(adapter: Path) -> dict[str, Any]:
    """How an adapter was made, as its run says."""
    run = json.loads((adapter / "run.json").read_text())
    kept = ("settings", "forecast", "result", "data")
    return {key: value for key, value in run.items() if key in kept}


def asked(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation without the known answer, where there is one."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def choose_shots(
    task: Task, known: list[Any], questions: Sequence[Any], count: int, near: bool, seed: int
) -> list[list[Any]]:
    """The examples before each question."""
    short = [one for one in known if sum(len(turn["content"]) for turn in one) <= task.example_length]
    if near:
        return [nearest(question[-1]["content"], short, count) for question in questions]
    same = Random(seed).sample(short, count) if count else []
    return [same] * len(questions)


def measure(task: Task, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The share of each measure, over all rows and each group of them."""
    members: dict[str, list[Verdict]] = {"all": []}
    for row, verdict in zip(rows, verdicts, strict=True):
        for group in ("all", *task.groups(row)):
            members.setdefault(group, []).append(verdict)
    lines = []
    for group, them in members.items():
        for name in them[0]:
            share = wilson(sum(one[name] for one in them), len(them))
            ends = {"share": share.estimate, "low": share.low, "high": share.high}
            lines.append({"group": group, "measure": name, **ends, "n": len(them)})
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument(
        "-m", "--model", required=True, help="a model reference, MODEL+ADAPTER for a tuned one"
    )
    parser.add_argument("--name", required=True, help="what the candidate is called in the result")
    parser.add_argument("--data", type=Path, help="the folder that the data were made in (.cache/tune/TASK)")
    parser.add_argument("--shots", type=int, default=0, help="examples before the question (default: none)")
    parser.add_argument("--nearest", action="store_true", help="the nearest examples, for each question")
    parser.add_argument("--limit", type=int, help="questions asked (default: the task's)")
    parser.add_argument("--threads", type=int, help="threads of the engine")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of examples")
    parser.add_argument("--answers", type=Path, help="write every answer and what holds of it, as JSON lines")
    return parser.parse_args()


if __name__ == "__main__":
    main()
