"""One line on a screen that says what is being done; a line for each thing elsewhere."""

from __future__ import annotations

import sys

from gemlet.cli.terminal import is_screen, note


class ProgressLine:
    """Call it with what is being done. Elsewhere than on a screen, what follows a colon is left out.

    `quiet`: say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._screen = is_screen(sys.stderr)
        self._said = ""

    def __call__(self, text: str) -> None:
        if self._quiet:
            return
        if self._screen:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif (begun := text.partition(":")[0]) != self._said:
            self._said = begun
            note(begun)

    def close(self) -> None:
        """Remove the line."""
        if self._screen and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
