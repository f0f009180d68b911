"""Nothing is unpickled at run time: a pickle names what to call, and so runs whatever its writer chose.

Python tells its audit hooks of every name that a pickle looks up (`pickle.find_class`, by either of its unpicklers);
ours refuses it while a command that answers is at work. Importers of `.pth` files and Ray, which ships its own objects
as pickles between its own processes, are outside. Knows nothing of packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onward.errors import UnpicklingRefused

_EVENT = "pickle.find_class"
_refusing = 0
_hooked = False


@contextmanager
def unpickling_refused() -> Iterator[None]:
    """Raise `UnpicklingRefused` for every name that a pickle looks up in this process, whichever thread, until the end.

    Pickles that name nothing, of numbers and texts for one, run nothing and pass.
    """
    global _refusing
    refuse_unpickling()
    try:
        yield
    finally:
        _refusing -= 1


def refuse_unpickling() -> None:
    """The same for the rest of the process's life."""
    global _hooked, _refusing
    _refusing += 1
    if not _hooked:
        sys.addaudithook(_refuse)  # a hook stays for as long as the process lives
        _hooked = True


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == _EVENT and _refusing:
        module, name = arguments
        raise UnpicklingRefused(expected="data in a form that runs nothing: numbers, texts, ONNX, safetensors",
                                found=f"a pickle that names {str(module)[:80]}.{str(name)[:80]}")  # fmt: skip
