"""One real question for each example package, as `make run` asks it and as a person would with curl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from onward.package.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question: `text`, or a file of the package, or the input of the package's golden example `example`."""

    package: str
    question: str
    content_type: str
    text: str = ""
    file: str = ""
    example: str = ""

    def body(self, repository: Path) -> bytes:
        """The request's body."""
        folder = Repository(repository).path(self.package)
        if self.file:
            return (folder / self.file).read_bytes()
        if self.example:
            for line in (folder / "examples.jsonl").read_text("utf-8").splitlines():
                example = json.loads(line)
                if example["name"].startswith(self.example):
                    return json.dumps(example["input"]).encode()
            raise LookupError(f"{self.package} has no golden example {self.example!r}")
        return self.text.encode()

    def curl(self, url: str, repository: Path) -> str:
        """The same as a command."""
        if self.file:
            data = f"--data-binary @{Repository(repository).path(self.package) / self.file}"
        else:
            data = f"-d '{self.text}'"
        return f"curl {url}/models/{self.package} -H 'content-type: {self.content_type}' {data}"


_JPEG, _JSON, _TEXT, _WAV = "image/jpeg", "application/json", "text/plain", "audio/wav"
_SENTENCE = "Cancel my subscription."
_REPLY = "Your subscription is cancelled."
ASKS = {
    ask.package: ask
    for ask in (
        Ask(
            package="moderation", question="a photo of an astronaut", content_type=_JPEG, file="examples/astronaut.jpg"
        ),
        Ask(package="vision", question="a photo of a cup", content_type=_JPEG, file="examples/coffee.jpg"),
        Ask(package="fraud", question="a transaction held out from training", content_type=_JSON, example="fraud"),
        Ask(
            package="recommend",
            question="after two films of Star Wars and The Matrix",
            content_type=_JSON,
            text='{"history": [260, 1196, 2571], "stars": [5, 5, 4.5]}',
        ),
        Ask(package="intent", question=f"“{_SENTENCE}”", content_type=_TEXT, text=_SENTENCE),
        Ask(
            package="support",
            question=f"“{_SENTENCE}”",
            content_type=_JSON,
            text='{"customer": "c-anna", "text": "Cancel my subscription."}',
        ),
        Ask(
            package="assistant-llm",
            question="“Paris, France; Rome, Italy; Madrid?”",
            content_type=_JSON,
            example="a country",
        ),
        Ask(
            package="copywriter",
            question="a paragraph from the facts of a desk lamp",
            content_type=_JSON,
            example="Alder 45",
        ),
        Ask(package="voice", question=f"says “{_REPLY}”", content_type=_TEXT, text=_REPLY),
        Ask(package="transcriber", question="a spoken sentence", content_type=_WAV, file="examples/fox.wav"),
        Ask(package="voice-assistant", question=f"hears “{_SENTENCE}”", content_type=_WAV, file="examples/cancel.wav"),
        Ask(package="ocr", question="a printed page", content_type="image/png", file="examples/page.png"),
        Ask(package="embed", question=f"“{_SENTENCE}”", content_type=_TEXT, text=_SENTENCE),
        Ask(package="vad", question="32 ms of a spoken sentence", content_type=_JSON, example="0.77 s"),
    )
}
