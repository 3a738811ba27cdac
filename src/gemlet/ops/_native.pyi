"""The compiled module. `native.py`, its only user, gives its values their types."""

from typing import Any

def __getattr__(name: str) -> Any: ...
