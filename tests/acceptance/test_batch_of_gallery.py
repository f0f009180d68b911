"""Scoring jobs of packages that write, speak, listen and look: the gallery's, over files as people have them."""

from __future__ import annotations

import base64
import io
import json
import shutil
import wave
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")

import pyarrow.parquet as pq

from onward.runners.batch import plan
from tests.unit.runners.batch.jobs import read, rejects, score, write

GALLERY = Path("var/repository")
SENTENCES = ("Your subscription is cancelled.", "Please hold the line.", "Thank you for calling.")
pytestmark = pytest.mark.weights


@pytest.fixture(autouse=True)
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast batches are is not what is tested."""
    monkeypatch.setattr(plan, "_TRIAL_S", 0.01)


def package(name: str) -> Path:
    """A package of the gallery, if it is built."""
    folder = GALLERY / name / "1.0.0"
    if not folder.is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    return folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentences, spoken into a Parquet file."""
    pytest.importorskip("piper", reason="a voice needs the extra `phonemes`")
    folder = tmp_path_factory.mktemp("spoken")
    rows = [{"id": at, "text": text} for at, text in enumerate([*SENTENCES, ""])]
    source = write(folder / "say.jsonl", rows)
    report = score(package("voice"), source, folder / "said.parquet")
    assert (report["answers"], report["rejects"]) == (3, 1)
    assert [row["code"] for row in rejects(folder / "said.parquet")] == ["INVALID_INPUT"]
    score(package("voice"), source, folder / "said.jsonl")
    again = score(package("voice"), source, folder / "again.parquet")
    assert again["output"]["sha256"] == report["output"]["sha256"]
    return folder


def test_speech_is_a_wav_file_in_each_cell_bytes_in_parquet_and_base64_in_json(spoken: Path) -> None:
    sounds = pq.read_table(spoken / "said.parquet").column("audio").to_pylist()
    for sound in sounds:
        with wave.open(io.BytesIO(sound)) as reader:
            assert reader.getframerate() == 22_050 and reader.getnframes() > 10_000
    assert [base64.b64decode(row["audio"]) for row in read(spoken / "said.jsonl")] == sounds


def test_sound_is_heard_from_a_folder_of_files_and_from_the_cells_of_a_table(spoken: Path, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="a transcriber needs the extra `speech`")
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for row in pq.read_table(spoken / "said.parquet").to_pylist():
        (sounds / f"{row['id']}.wav").write_bytes(row["audio"])
    (sounds / "broken.wav").write_bytes(b"RIFF nothing")
    report = score(package("transcriber"), sounds, tmp_path / "heard.jsonl", keep=())
    assert report["answers"] == 3
    heard = read(tmp_path / "heard.jsonl")
    assert [row["_file"] for row in heard] == ["0.wav", "1.wav", "2.wav"]
    assert [row["text"] for row in heard] == list(SENTENCES)
    assert [(row["row"], row["code"]) for row in rejects(tmp_path / "heard.jsonl")] == [(3, "CORRUPT_MEDIA")]
    for name in ("said.parquet", "said.jsonl"):
        score(package("transcriber"), spoken / name, tmp_path / f"{name}.csv", keep=())
        assert all(sentence in (tmp_path / f"{name}.csv").read_text() for sentence in SENTENCES)


def test_texts_without_a_seed_are_the_same_in_every_run_of_a_job_and_differ_from_row_to_row(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="a language model needs the extra `llm`")
    rows = [{"id": at, "messages": "Name a colour", "max_tokens": 8, "temperature": 1.5} for at in range(6)]
    source = write(tmp_path / "ask.jsonl", [*rows, {"id": 6, "messages": 7}])
    reports = [score(package("assistant-llm"), source, tmp_path / f"{name}.jsonl") for name in "ab"]
    assert reports[0]["output"]["sha256"] == reports[1]["output"]["sha256"] and reports[0]["rejects"] == 1
    assert len({row["text"] for row in read(tmp_path / "a.jsonl")}) >= 4


@pytest.mark.long
def test_facts_become_paragraphs_and_a_product_without_facts_is_a_reject(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="a language model needs the extra `llm`")
    examples = (package("copywriter") / "examples.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [{"id": at, **json.loads(line)["input"]} for at, line in enumerate(examples)]
    source = write(tmp_path / "facts.jsonl", [*rows, {"id": 9, "product": "Nimbus"}])
    report = score(package("copywriter"), source, tmp_path / "texts.jsonl")
    assert (report["answers"], report["rejects"]) == (len(rows), 1)
    for row, wanted in zip(read(tmp_path / "texts.jsonl"), rows, strict=True):
        assert row["paragraph"].startswith(f"The {wanted['product']}") and len(row["paragraph"].split()) >= 60


def test_pictures_of_pages_are_read_and_a_broken_one_is_a_reject(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("invoice-0.png", "invoice-1.png"):
        shutil.copy(package("ocr") / "examples" / name, pictures / name)
    (pictures / "a.png").write_bytes(b"nothing")
    report = score(package("ocr"), pictures, tmp_path / "read.parquet", keep=())
    assert (report["answers"], report["rejects"]) == (2, 1)
    found = read(tmp_path / "read.parquet")
    assert "INVOICE No. 2020-6105" in found[0]["text"] and json.loads(found[0]["lines"])[0]["text"]


def test_messages_have_answers_and_decisions(tmp_path: Path) -> None:
    examples = (package("support") / "examples.jsonl").read_text().splitlines()
    rows = [{"id": at, **json.loads(line)["input"]} for at, line in enumerate(examples)]
    score(package("support"), write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    wanted = [json.loads(line)["answer"]["label"] for line in examples]
    assert [row["label"] for row in found] == wanted and all(row["decision"] for row in found)
