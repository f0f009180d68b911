"""Onward: one package, four ways to run it, one answer.

`onward.open(path)` opens a package to be called with inputs; `onward.pack(source, out)` makes one. Importing this
module imports nothing heavy and has no effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onward.opening import AnyPipeline

__version__ = "0.1.0"
__all__ = ["__version__", "open", "pack"]


def open(path: Any, *, check: bool = True) -> AnyPipeline:
    """Open a package folder or archive; call the result with an input, or its `batch` with several.

    With `check`, the golden examples are run first. Raises `onward.errors.OnwardError`.
    """
    from onward.opening import open_pipeline

    return open_pipeline(path, check=check)


def pack(source: Any, out: Any, **options: Any) -> Any:
    """Pack a model file or a fitted estimator; see `onward.package.pack.pack`."""
    from pathlib import Path

    from onward.package.pack import pack as pack_source
    from onward.runners.local import check_policy, run_package

    return pack_source(source, Path(out), **{"run_package": run_package, "check": check_policy} | options)
