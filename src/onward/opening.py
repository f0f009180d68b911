"""Opening a package, whatever it is made of: one call for every runner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from onward.package.package import open_package, verified_manifest
from onward.package.sources import fetch, is_source
from onward.pipeline import Pipeline
from onward.stages import StagedPipeline
from onward.streaming import STREAMING_BACKENDS, StreamingPipeline

AnyPipeline: TypeAlias = Pipeline | StreamingPipeline | StagedPipeline


def open_pipeline(path: str | Path, *, check: bool = True, repositories: Sequence[Path] = ()) -> AnyPipeline:
    """Open a package folder or archive: verify its digests, load it and, unless told not to, run its examples.

    The packages of stages are looked for in the repository that the package lies in, then in `repositories`.
    """
    path = fetch(path) if isinstance(path, str) and is_source(path) else Path(path)
    manifest = verified_manifest(path) if path.is_dir() else open_package(path).manifest
    if manifest.stages:
        open_stage = partial(open_pipeline, check=check, repositories=repositories)
        return StagedPipeline.open(path, open_stage, repositories=repositories, check=check)
    if manifest.execute.backend in STREAMING_BACKENDS:
        return StreamingPipeline.open(path, check=check)
    return Pipeline.open(path, check=check)
