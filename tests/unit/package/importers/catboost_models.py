"""Makes catboost_models.json: small models of CatBoost with what it answers, so that tests need no CatBoost.

Run it with CatBoost installed: `python tests/unit/package/importers/catboost_models.py`. The data are random numbers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")


def main() -> None:
    """Train each model and write it, cut down to what an importer reads, beside rows and answers."""
    import catboost
    import numpy as np
    import pandas

    random = np.random.default_rng(7)
    rows = 400
    frame = pandas.DataFrame(
        {
            "a": random.normal(size=rows).round(1),
            "n": random.integers(0, 4, rows),
            "c": random.choice([*"abcde", "zé", "a text of more than thirty-two characters"], rows),
            "d": random.choice(["p", "q"], rows),
        }
    )
    frame.loc[random.random(rows) < 0.1, "a"] = np.nan
    score = frame["a"].fillna(0) + frame["n"] * frame["c"].isin(["a", "zé"]) + (frame["d"] == "p") * (frame["c"] > "b")
    levels = np.array(["low", "middle", "high"])[np.digitize(score, [0.3, 1.2])]
    options: dict[str, Any] = {"iterations": 8, "depth": 3, "verbose": 0, "thread_count": 1, "random_seed": 0}
    options |= {"allow_writing_files": False, "cat_features": ["n", "c", "d"]}
    classifier, regressor = catboost.CatBoostClassifier, catboost.CatBoostRegressor
    models = {
        "two classes": classifier(**options).fit(frame, score > 0.8),
        "three classes": classifier(**options, max_ctr_complexity=3).fit(frame, levels),
        "combinations": classifier(**options | {"iterations": 30}, max_ctr_complexity=3).fit(frame, score > 0.8),
        "all by name": regressor(**options, one_hot_max_size=20, nan_mode="Max").fit(frame, score * 1000),
        "branches": regressor(**options, grow_policy="Depthwise").fit(frame, score),
        "counts": regressor(**options, loss_function="Poisson").fit(frame, score.abs() + 0.1),
    }
    told = [{name: None if value != value else value for name, value in row.items()}
            for row in frame.to_dict(orient="records")]  # fmt: skip
    document: dict[str, Any] = {"rows": told, "models": {}}
    for name, model in models.items():
        is_classifier = isinstance(model, classifier)
        answers = (model.predict_proba(frame) if is_classifier else model.predict(frame)).round(7)
        labels = [str(label) for label in model.predict(frame).ravel()] if is_classifier else []
        document["models"][name] = {"model": saved(model), "answers": answers.tolist(), "labels": labels}
    FILE.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def saved(model: Any) -> dict[str, Any]:
    """The model's JSON without what nobody reads, such as the options of training."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_model(f"{folder}/model.json", format="json")
        document: dict[str, Any] = json.loads(Path(f"{folder}/model.json").read_text())
    info = document["model_info"]
    document["model_info"] = {"params": {"loss_function": info["params"]["loss_function"]}}
    document["model_info"] |= {"class_params": info["class_params"]} if "class_params" in info else {}
    for tree in document.get("oblivious_trees", ()):
        del tree["leaf_weights"]
    return document


if __name__ == "__main__":
    main()
