"""PyTorch modules through torch.export, against the module itself; where the extra `torch` is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.importers.graph import UnsupportedModel
from onward.package.pack import pack
from onward.pipeline import Pipeline
from onward.runners.local import run_package

torch: Any = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

ROWS = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)


def network() -> Any:
    """A small convolutional network in training mode, with what only training uses."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(16, 5), torch.nn.Softmax(dim=1),
    )  # fmt: skip


class Two(torch.nn.Module):  # type: ignore[misc]
    """Two inputs, one optional, and named outputs."""

    def forward(self, left: Any, right: Any, scale: Any = None) -> dict[str, Any]:
        return {"total": left + right * 2, "best": (left * right).argmax(dim=1)}


class Mixing(torch.nn.Module):  # type: ignore[misc]
    """Rows look at each other."""

    def forward(self, x: Any) -> Any:
        return x - x.mean(dim=0, keepdim=True)


class Branching(torch.nn.Module):  # type: ignore[misc]
    """What it does depends on the data."""

    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x


def test_a_network_is_packed_in_evaluation_and_answers_as_the_module(tmp_path: Path) -> None:
    module = network()
    package = pack(module, tmp_path / "out", name="net", sample=ROWS, run_package=run_package)
    assert module.training  # as it was
    parity = read_lock(package.folder).parity
    assert parity["compared"] is True and parity["rows"] == 5
    module.eval()
    with torch.inference_mode(), Pipeline.open(package.folder) as pipeline:
        found = np.concatenate([each.tensors["output"] for each in pipeline.batch([{"input": row} for row in ROWS])])
        np.testing.assert_allclose(found, module(torch.from_numpy(ROWS)).numpy(), atol=1e-6)
        assert pipeline.check_examples() == 5


def test_several_inputs_and_named_outputs_keep_their_names(tmp_path: Path) -> None:
    left, right = torch.arange(12.0).reshape(3, 4), torch.ones(3, 4)
    for place, sample in enumerate([(left, right), {"left": left, "right": right.numpy()}]):
        package = pack(Two(), tmp_path / f"out-{place}", name="two", sample=sample, run_package=run_package)
        with Pipeline.open(package.folder) as pipeline:
            answer = pipeline({"left": [1, 2, 3, 4], "right": [1, 1, 1, 1]}).answer
        assert answer == {"total": [3, 4, 5, 6], "best": 3}


def test_rows_that_look_at_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="depends on the other rows"):
        pack(Mixing(), tmp_path / "out", name="mixing", sample=ROWS[:, 0, 0])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"torch\.export"):
        pack(Branching(), tmp_path / "out", name="branching", sample=ROWS[:, 0, 0])


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (ROWS[:1], "2 rows"),
        ((ROWS, ROWS, ROWS), "fewer arguments"),
        ({"pixels": ROWS}, "no such argument"),
        (ROWS[:, :2], "does not take the sample"),
        (np.array(["a", "b"]), "no tensor"),
        (None, "sample"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(sample: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        pack(network(), tmp_path / "out", name="net", sample=sample)


def test_the_package_runs_without_pytorch(tmp_path: Path) -> None:
    package = pack(network(), tmp_path / "out", name="net", sample=ROWS)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"import onward\nwith onward.open({str(package.folder)!r}) as p: print(p.check_examples())"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert made.stdout.strip() == "5", made.stderr
