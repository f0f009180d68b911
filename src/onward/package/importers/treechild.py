"""The child process in which a library of boosted trees reads its own file and answers rows, within limits.

Such readers are native code that takes its files on trust: a broken one ends the process. So it is never the one that
packs. This is a script of its own; it imports nothing of the package and of the libraries only the one it is told.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NOT_INSTALLED = 3


def main(argument: str) -> int:
    """Do what the argument says, JSON: `library`, `model`, `rows` and `out` (.npy), limits, and the library's own."""
    asked = json.loads(argument)
    _limit(int(asked["memory_bytes"]), int(asked["time_s"]))
    try:
        answer(asked)
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_INSTALLED
    except Exception as error:  # whatever the library raises is what it says of the file
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}\n")
        return 1
    return 0


def answer(asked: Mapping[str, Any]) -> None:
    """Write what the library answers, FP64, to `out`, or the file converted to where it is asked for."""
    library = importlib.import_module(asked["library"])
    values = {"xgboost": _xgboost, "lightgbm": _lightgbm, "catboost": _catboost}[asked["library"]](library, asked)
    if values is not None:
        np.save(asked["out"], np.asarray(values, dtype=np.float64), allow_pickle=False)


def _xgboost(xgboost: Any, asked: Mapping[str, Any]) -> Any:
    booster = xgboost.Booster({"nthread": 1}, model_file=asked["model"])
    described = {"feature_names": booster.feature_names, "feature_types": booster.feature_types}
    data = xgboost.DMatrix(np.load(asked["rows"]).astype(np.float32), enable_categorical=True, nthread=1, **described)
    options = {"iteration_range": tuple(asked["rounds"])} if "rounds" in asked else {}
    return booster.predict(data, output_margin=asked["margin"], **options)


def _lightgbm(lightgbm: Any, asked: Mapping[str, Any]) -> Any:
    return lightgbm.Booster(model_file=asked["model"]).predict(np.load(asked["rows"]), num_threads=1)


def _catboost(catboost: Any, asked: Mapping[str, Any]) -> Any:
    model = catboost.CatBoost().load_model(asked["model"], format=asked["format"])
    if "converted" in asked:
        model.save_model(asked["converted"], format="json")
        return None
    rows = json.loads(Path(asked["rows"]).read_text(encoding="utf-8"))
    pool = catboost.Pool(rows, cat_features=asked["categorical"] or None)
    return model.predict(pool, prediction_type=asked["prediction"], thread_count=1)


def _limit(memory_bytes: int, time_s: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's timeout stays
        return
    for name, value in (("RLIMIT_AS", memory_bytes), ("RLIMIT_CPU", time_s), ("RLIMIT_CORE", 0)):
        kind = getattr(resource, name, None)
        if kind is not None:
            _, ceiling = resource.getrlimit(kind)
            resource.setrlimit(kind, (value if ceiling < 0 else min(value, ceiling),) * 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
