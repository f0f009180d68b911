"""Which library a file of trees is from: told by what is in it, because they share suffixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onward.errors import PackageError, UsageError
from onward.package.importers.draft import Draft
from onward.package.records import PackageInfo

MOST_BYTES = 512 << 20
_HEAD_BYTES = 1 << 16
_EXPECTED = "XGBoost's .json or .ubj, LightGBM's .txt, or CatBoost's .json or .cbm"


def draft_of_tree_file(
    path: Path, info: PackageInfo, *, sample: Any = None, labels: Path | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of a file of boosted trees.

    Raises `UsageError` for what no known library wrote, `PackageError` for a file that is broken or too large.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise PackageError("the file is too large", where=str(path), expected=f"at most {MOST_BYTES} bytes",
                           found=f"{size} bytes")  # fmt: skip
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if _is_xgboost(head, path.suffix.lower()):
        from onward.package.importers.xgboost import draft_of_xgboost_file

        return draft_of_xgboost_file(path, info, sample=sample, labels=labels, tolerance=tolerance)
    if head.startswith((b"tree\n", b"tree\r\n")):
        from onward.package.importers.lightgbm import draft_of_lightgbm_file

        return draft_of_lightgbm_file(path, info, sample=sample, labels=labels, tolerance=tolerance)
    if head.startswith(b"CBM1") or (
        head[:1] == b"{" and any(key in head for key in (b'"ctr_data"', b'"features_info"'))
    ):
        from onward.package.importers.catboost import draft_of_catboost_file

        return draft_of_catboost_file(path, info, sample=sample, labels=labels, tolerance=tolerance)
    raise UsageError("cannot pack this kind of file: no known library wrote it", where=str(path), expected=_EXPECTED)


def _is_xgboost(head: bytes, suffix: str) -> bool:
    if suffix == ".ubj" or head[:2] in (b"{L", b"{#"):
        return True
    return head[:1] == b"{" and b'"learner"' in head
