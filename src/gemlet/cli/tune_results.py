"""What `gemlet tune` leaves beside the trained values: their papers, a whole model, the report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.terminal import is_screen, note
from gemlet.cli.tune_progress import duration

if TYPE_CHECKING:
    from gemlet.store.references import Found
    from gemlet.tune.data import Dataset
    from gemlet.tune.network import Network
    from gemlet.tune.settings import Settings
    from gemlet.tune.train import Result

MODEL = "model"
"""The folder, inside the run's, of a model all of whose values were trained."""


@dataclass(frozen=True)
class Made:
    """A run that ended. licence: what the base's files state."""

    found: Found
    output: Path
    settings: Settings
    result: Result
    licence: str | None

    @property
    def model(self) -> Path | None:
        return self.output / MODEL if self.settings.method == "full" else None

    def write(self, network: Network) -> None:
        """The terms that travel with what was made, how it was made, and a whole model where it is one."""
        from gemlet.convert.terms import Origin, terms_files, write_beside
        from gemlet.model.adapters import ADAPTER_FILES
        from gemlet.model.sources import open_source
        from gemlet.provenance.manifest import Input, derive, write_manifest
        from gemlet.tune.job import read_run

        run = read_run(self.output)
        base, data = run["base"], run["data"]
        name = Path(base["reference"]).name
        source = open_source(self.found.path)
        changes = [f"trained with the method {self.settings.method} on {data['path']} ({data['sha256']})"]
        texts = terms_files(source, Origin(name, base["weights_sha256"]), changes)
        if self.model is None:
            write_beside(self.output / "adapter_config.json", texts)
        else:
            _write_model(self.model, source, network, texts)
        inputs = [
            Input("base", name, sha256=base["weights_sha256"], licence=self.licence),
            Input("data", data["path"], sha256=data["sha256"]),
        ]
        folder = self.model or self.output
        # Not the run's own files: reports are written later, checkpoints may be deleted.
        names = [name for name in (*ADAPTER_FILES, *texts) if (folder / name).is_file()]
        listed = names if self.model is None else None
        write_manifest(folder, derive(folder, inputs, changes=changes, licence=self.licence, names=listed))

    def report(self, dataset: Dataset, seconds: float, quiet: bool) -> dict[str, Any]:
        """Measure the model before and after, and write the report; its document."""
        from gemlet.tune.evaluate_run import evaluate_run, held_out_of
        from gemlet.tune.evaluation import Options
        from gemlet.tune.report import write_report

        held_out = held_out_of(dataset)
        if held_out.items:
            shown = _Measuring(quiet)
            options = Options(budget_s=seconds, seed=self.settings.seed, progress=shown)
            try:
                evaluate_run(str(self.found.path), self.output, held_out, options, tuned=self.model)
            finally:
                shown.close()
        elif not quiet:
            note("no example was held out: what was gained cannot be measured")
        return write_report(self.output).document

    def lines(self, report: dict[str, Any] | None) -> list[str]:
        """The result for a person."""
        result = self.result
        lines = [f"{'steps':<11}{result.steps}, {result.tokens:,} tokens in {duration(result.seconds)}"]
        if result.best_valid_loss is not None:
            early = ", and ended early: it became no better" if result.ending == "early" else ""
            lines.append(
                f"{'held out':<11}loss {result.start_valid_loss:.4f} before, {result.best_valid_loss:.4f} "
                f"at step {result.best_step}, which was kept{early}"
            )
        lines.append(f"{'written':<11}{self.model or self.output}")
        if report is not None:
            from gemlet.tune.report import PAGE, terminal_summary

            lines += [f"{'report':<11}{self.output / PAGE}", *terminal_summary(report)]
        reference = str(self.model or f"{self.found.reference}+{_as_reference(self.output)}")
        return [*lines, f"{'use it':<11}gemlet chat -m {reference}"]


def _write_model(folder: Path, source: Any, network: Network, texts: dict[str, bytes]) -> None:
    """A folder for transformers and gemlet, of the type that the source has, or bfloat16."""
    from gemlet.convert.folder_writer import folder_kind, write_folder

    changed = {}
    for name, parameter in network.parameters.items():
        values = parameter.detach().numpy()
        if values.ndim == 1:
            values = values - source.norm_offset
        rows = values.reshape(-1, values.shape[-1])
        changed[name] = lambda start, stop, rows=rows: rows[start:stop]
    write_folder(folder, source, folder_kind(source), changed, others=texts, force=True)


class _Measuring:
    """What is measured, as it begins, or as a line that moves."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._screen, self._what = quiet, is_screen(sys.stderr), ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._screen:
            print(f"\r\x1b[Kmeasuring: {what} {done} of {total}", end="", file=sys.stderr, flush=True)
        elif what != self._what:
            note(f"measuring: {what}")
        self._what = what

    def close(self) -> None:
        if self._screen and self._what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _as_reference(path: Path) -> str:
    """A path that cannot be taken for a name."""
    text = str(path)
    return text if path.is_absolute() or text.startswith(("./", "../", "~")) else f"./{text}"
