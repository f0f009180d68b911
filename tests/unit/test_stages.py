"""A package of stages, opened and run here: values find their way, errors say where they arose."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from onward.errors import DeadlineExceeded, GoldenExampleFailed, InputError, MissingInput, PackageError, UnknownOutput
from onward.flow import STAGES_MS
from onward.package.archive import write_archive
from onward.package.assembly import assemble
from onward.package.examples import Example, write_examples
from onward.pipeline import Pipeline
from onward.stages import StagedPipeline
from onward.testing import tiny_package
from onward.types import CancelToken
from tests.packages import CHAIN, chain_package, staged_packages

X = [1.0, 2.0, 3.0]


def opened(folder: Path, **options: Any) -> StagedPipeline:
    return StagedPipeline.open(folder, Pipeline.open, **options)


def test_values_go_through_the_stages_and_the_first_source_that_there_is_counts(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        assert pipeline({"x": X}).answer == {"y": [2.0, 4.0, 6.0]}
        assert pipeline({"x": X, "way": "long"}).answer == {"y": [12.0, 14.0, 16.0]}
        assert pipeline({"x": X}).package.name == "chain"


def test_a_bare_value_stands_for_the_only_input_that_is_needed(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        assert pipeline(X).answer == {"y": [2.0, 4.0, 6.0]}


def test_a_batch_answers_as_its_items_do_alone_also_where_some_skip_a_stage(tmp_path: Path) -> None:
    items = [{"x": [float(n)] * 3, "way": "long" if n % 3 else "short"} for n in range(7)]
    with opened(staged_packages(tmp_path)) as pipeline:
        together = [result.answer for result in pipeline.batch(items)]
        assert together == [pipeline(item).answer for item in items]
        assert pipeline.batch([]) == []


def test_outputs_and_the_durations_of_the_stages_are_there_on_request(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        answer = pipeline({"x": X, "way": "long"}, outputs=["doubled", STAGES_MS]).answer
        assert answer["doubled"] == [2.0, 4.0, 6.0]
        assert set(answer[STAGES_MS]) == {"double", "far"} and all(value > 0 for value in answer[STAGES_MS].values())
        assert set(pipeline({"x": X}, outputs=[STAGES_MS]).answer[STAGES_MS]) == {"double"}
        with pytest.raises(UnknownOutput, match="doubbled"):
            pipeline({"x": X}, outputs=["doubbled"])


def test_an_error_names_the_input_of_the_whole_or_the_stage_it_arose_in(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        with pytest.raises(MissingInput) as missing:
            pipeline({"way": "long"})
        assert missing.value.where == "x"
        with pytest.raises(InputError) as wrong:
            pipeline.batch([{"x": X}, {"x": [1.0]}])
        assert wrong.value.where == "[1] x"


def test_the_deadline_is_one_for_all_stages(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        assert pipeline({"x": X}, timeout_s=60.0).answer
        with pytest.raises(DeadlineExceeded):
            pipeline({"x": X}, timeout_s=0.0)


def test_a_stream_ends_with_the_whole_answer_and_after_cancel_with_nothing(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        last = list(pipeline.stream({"x": X, "way": "long"}, CancelToken()))[-1]
        assert last.kind == "end" and last.result is not None and last.result.answer == {"y": [12.0, 14.0, 16.0]}
        assert set(last.attributes[STAGES_MS]) == {"double", "far"}
        cancel = CancelToken()
        cancel.cancel()
        assert list(pipeline.stream({"x": X}, cancel)) == []


def test_examples_are_run_when_a_package_is_opened(tmp_path: Path) -> None:
    folder = staged_packages(tmp_path)
    with opened(folder) as pipeline:
        assert pipeline.check_examples() == 1
    (tmp_path / "wrong").mkdir()
    staged = tmp_path / "wrong" / "repository"
    tiny_package(staged / "double" / "1.0.0", name="double", scale=3.0, offset=0.0)
    tiny_package(staged / "plus" / "1.0.0", name="plus", scale=1.0, offset=10.0)
    with pytest.raises(GoldenExampleFailed):
        opened(chain_package(staged))


def test_a_stage_that_was_replaced_is_refused_by_name(tmp_path: Path) -> None:
    folder = staged_packages(tmp_path)
    shutil.rmtree(tmp_path / "plus")
    with pytest.raises(PackageError, match='stage "far": there is no such package'):
        opened(folder)
    tiny_package(tmp_path / "plus" / "1.0.0", name="plus", scale=1.0, offset=11.0)
    with pytest.raises(PackageError, match=r'stage "far": plus 1\.0\.0 is not the package'):
        opened(folder)


def test_an_archive_finds_its_stages_in_the_repository_it_is_told(tmp_path: Path) -> None:
    archive = write_archive(staged_packages(tmp_path / "repository"), tmp_path / "chain.onward")
    with opened(archive, repositories=[tmp_path / "repository"]) as pipeline:
        assert pipeline(X).answer == {"y": [2.0, 4.0, 6.0]}


def test_packages_of_stages_can_be_stages(tmp_path: Path) -> None:
    staged_packages(tmp_path)
    text = CHAIN.replace('name = "chain"', 'name = "outer"').replace('package = "double"', 'package = "chain"')
    folder = tmp_path / "outer" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(text)
    write_examples(folder, [Example(name="one", input={"x": X}, answer={"y": [2.0, 4.0, 6.0]})])
    assemble(folder, repositories=[tmp_path])

    def open_any(path: Path) -> Any:
        return opened(path) if path.parent.name == "chain" else Pipeline.open(path)

    with StagedPipeline.open(folder, open_any) as pipeline:
        assert pipeline({"x": X, "way": "long"}).answer == {"y": [12.0, 14.0, 16.0]}


def test_many_threads_share_a_pipeline(tmp_path: Path) -> None:
    with opened(staged_packages(tmp_path)) as pipeline:
        wrong: list[Any] = []

        def work(number: int) -> None:
            for _ in range(20):
                answer = pipeline({"x": [float(number)] * 3, "way": "long"}).answer
                if answer != {"y": [2.0 * number + 10.0] * 3}:
                    wrong.append(answer)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
