"""The converters of the extra `pack`, imported when a model needs them and not before."""

from __future__ import annotations

import importlib
from typing import Any

from onward.errors import MissingExtra


def need(module: str, purpose: str) -> Any:
    """Import a module of the extra `pack`; raises `MissingExtra` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the converter is there, but broken: say what is really wrong
        raise MissingExtra(f"{purpose} needs {error.name}", expected="pip install 'onward[pack]'") from None
