"""The steps of a manifest, `[[prepare]]` and `[[generate]]`, read into their records."""

from __future__ import annotations

from typing import Literal, cast

from onward.package.records import (
    Catalogue,
    DecodeAudio,
    DecodeImage,
    Entities,
    GenerateGraph,
    GenerateStep,
    JsonText,
    Labels,
    Named,
    PrepareGraph,
    PrepareStep,
    PromptStep,
    Prose,
    SpeechWindows,
    Table,
    Tokenize,
)
from onward.package.sections import Document, Section, shown
from onward.types import Field

_PREPARE_STEPS = ("table", "tokenize", "decode_image", "decode_audio", "speech_windows", "prompt", "graph")
_GENERATE_STEPS = ("graph", "labels", "named", "catalogue", "entities", "prose", "json")


def read_prepare(document: Document, inputs: tuple[Field, ...]) -> tuple[PrepareStep, ...]:
    """The steps of `[[prepare]]`, in order; what is wrong with them is noted in the document."""
    steps: list[PrepareStep] = []
    for section in document.tables("prepare"):
        kind = section.text("step", choices=_PREPARE_STEPS)
        if kind == "table":
            every = tuple(field.name for field in inputs)
            steps.append(
                Table(
                    columns=section.names("columns", every, kind="input names"),
                    output=section.name("output", "features", kind="a tensor name"),
                    unknown=cast(Literal["error", "nan"], section.text("unknown", "error", choices=("error", "nan"))),
                )
            )
        elif kind == "tokenize":
            steps.append(
                Tokenize(
                    input=section.name("input", kind="the name of an input"),
                    file=section.file("file", "tokenizer.json"),
                    max_tokens=section.integer("max_tokens", 256, minimum=1, maximum=1 << 20),
                    outputs=section.names("outputs", ("input_ids", "attention_mask"), kind="tensor names"),
                )
            )
        elif kind == "decode_image":
            steps.append(
                DecodeImage(
                    input=section.name("input", kind="the name of an input"),
                    output=section.name("output", "pixels", kind="a tensor name"),
                )
            )
        elif kind == "decode_audio":
            steps.append(
                DecodeAudio(
                    input=section.name("input", kind="the name of an input"),
                    sample_rate_hz=section.integer("sample_rate_hz", 16_000, minimum=1000, maximum=192_000),
                )
            )
        elif kind == "speech_windows":
            steps.append(_speech_windows(section))
        elif kind == "prompt":
            steps.append(
                PromptStep(
                    messages=section.name("messages", "", kind="the name of an input"),
                    system=section.text("system", ""),
                    template=section.text("template", ""),
                )
            )
        elif kind == "graph":
            steps.append(PrepareGraph(file=section.file("file", "prepare.onnx")))
        else:
            continue
        section.close()
    return tuple(steps)


def read_generate(document: Document) -> tuple[GenerateStep, ...]:
    """The steps of `[[generate]]`, in order; what is wrong with them is noted in the document."""
    steps: list[GenerateStep] = []
    for section in document.tables("generate"):
        kind = section.text("step", choices=_GENERATE_STEPS)
        if kind == "graph":
            steps.append(GenerateGraph(file=section.file("file", "generate.onnx")))
        elif kind == "labels":
            steps.append(
                Labels(
                    scores=section.name("scores", kind="the name of an output"),
                    indices=section.name("indices", "", kind="the name of an output"),
                    file=section.file("file", "labels.txt"),
                    top_k=section.integer("top_k", 5, minimum=1, maximum=1 << 20),
                    output=section.name("output", "label"),
                )
            )
        elif kind == "named":
            steps.append(Named(input=section.name("input", kind="the name of an output"), names=section.names("names")))
        elif kind == "catalogue":
            steps.append(_catalogue(section))
        elif kind == "entities":
            steps.append(_entities(section))
        elif kind == "prose":
            steps.append(_prose(section))
        elif kind == "json":
            when = section.name("when", "", kind="the name of an input")
            source = section.name("input", "", kind="the name of an output")
            steps.append(JsonText(input=source, file=section.file("file", "schema.json"), when=when))
        else:
            continue
        section.close()
    return tuple(steps)


def _catalogue(section: Section) -> Catalogue:
    kind = "the name of an output"
    return Catalogue(
        ids=section.name("ids", kind=kind),
        scores=section.name("scores", "", kind=kind),
        because=section.name("because", "", kind=kind),
        reason=section.name("reason", "", kind=kind),
        reasons=section.names("reasons", (), kind="texts"),
        file=section.file("file", "catalogue.jsonl"),
        top_k=section.integer("top_k", 10, minimum=1, maximum=1 << 20),
        output=section.name("output", "items"),
    )


def _entities(section: Section) -> Entities:
    ways = ("first", "mean", "max")
    return Entities(
        scores=section.name("scores", kind="the name of an output"),
        input=section.name("input", kind="the name of an input"),
        file=section.file("file", "labels.txt"),
        aggregate=cast(Literal["first", "mean", "max"], section.text("aggregate", "first", choices=ways)),
        output=section.name("output", "entities"),
    )


def _speech_windows(section: Section) -> SpeechWindows:
    usual = SpeechWindows()
    window_s, threshold = section.number("window_s"), section.number("threshold")
    if window_s is not None and not 1 <= window_s <= 600:
        section.problem("window_s", "out of range", expected="1 to 600 seconds", found=shown(window_s))
    if threshold is not None and not 0 < threshold < 1:
        section.problem("threshold", "out of range", expected="a probability between 0 and 1", found=shown(threshold))
    return SpeechWindows(
        file=section.file("file", usual.file),
        window_s=usual.window_s if window_s is None else window_s,
        threshold=usual.threshold if threshold is None else threshold,
    )


def _prose(section: Section) -> Prose:
    quotes = section.document.table(section.key("quotes"), section.take("quotes") or {})
    return Prose(
        input=section.name("input", "text", kind="the name of an output"),
        opening=section.text("opening", ""),
        min_words=section.integer("min_words", 0, minimum=0),
        min_sentences=section.integer("min_sentences", 0, minimum=0),
        numbers_from=section.names("numbers_from", (), kind="input names"),
        forbidden=section.names("forbidden", (), kind="texts"),
        quotes={name: quotes.name(name, kind="the name of an input") for name in quotes.values},
        attempts=section.integer("attempts", Prose().attempts, minimum=1, maximum=10),
    )
