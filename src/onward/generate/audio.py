"""Speech as files: WAV, FLAC, MP3, Opus or bare PCM, whole or piece by piece as it is made.

Encoders are those of libsndfile. Piece by piece, what would be known only at the end stays out: a WAV's length is the
largest there is, which players take for "until it ends". The encoders of FLAC and MP3 go back to the beginning when
they end: these come in one piece, at the end.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.errors import MissingExtra

OPUS_HZ = 48_000
_UNKNOWN = 0xFFFFFFFF
_HEADER_BYTES = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioForm:
    """A kind of file: libsndfile's name of it and of its encoding ("" where we write it), and its media type."""

    file: str
    encoding: str
    media_type: str


FORMS: Mapping[str, AudioForm] = {
    "wav": AudioForm(file="", encoding="", media_type="audio/wav"),
    "pcm": AudioForm(file="", encoding="", media_type="audio/pcm"),
    "flac": AudioForm(file="FLAC", encoding="PCM_16", media_type="audio/flac"),
    "mp3": AudioForm(file="MP3", encoding="MPEG_LAYER_III", media_type="audio/mpeg"),
    "opus": AudioForm(file="OGG", encoding="OPUS", media_type="audio/ogg"),
}


WHOLE = ("flac", "mp3")


def encode(pcm: bytes, rate_hz: int, form: str) -> bytes:
    """PCM, signed 16 bit, little-endian, mono, as a whole file of one of `FORMS`. Raises `MissingExtra`."""
    if form == "pcm":
        return pcm
    if form == "wav":
        return _wav_header(rate_hz, len(pcm)) + pcm
    file = io.BytesIO()
    with _Writing(file, rate_hz, FORMS[form]) as writing:
        writing.write(pcm)
    return file.getvalue()


class Encoder:
    """One file, made while its sound is: what `feed` and `finish` give is the file, in order."""

    def __init__(self, rate_hz: int, form: str) -> None:
        """Raises `MissingExtra` where the form needs libsndfile and it is not there."""
        self._rate_hz = rate_hz
        self._form = form
        self._begun = False
        self._kept: list[bytes] = []
        self._sink = _Sink()
        self._writing = _Writing(self._sink, rate_hz, FORMS[form]) if form == "opus" else None

    def feed(self, pcm: bytes) -> bytes:
        """Take a piece of PCM, signed 16 bit, little-endian, mono; what of the file is ready."""
        first, self._begun = not self._begun, True
        if self._writing is not None:
            self._writing.write(pcm)
            return self._sink.taken()
        if self._form in WHOLE:
            self._kept.append(pcm)
            return b""
        return _wav_header(self._rate_hz, None) + pcm if first and self._form == "wav" else pcm

    def finish(self) -> bytes:
        """The end of the file."""
        if self._writing is not None:
            self._writing.close()
            return self._sink.taken()
        return encode(b"".join(self._kept), self._rate_hz, self._form) if self._form in WHOLE else b""


class _Writing:
    """A file that libsndfile writes, at a rate that its encoding has."""

    def __init__(self, file: Any, rate_hz: int, form: AudioForm) -> None:
        try:
            import soundfile
            import soxr
        except (ImportError, OSError):
            raise MissingExtra("encoding needs libsndfile", expected="pip install 'onward[speech]'") from None
        resampled = form.encoding == "OPUS" and rate_hz != OPUS_HZ
        self._resampler: Any = soxr.ResampleStream(rate_hz, OPUS_HZ, 1, "int16") if resampled else None
        self._file: Any = soundfile.SoundFile(
            file, "w", samplerate=OPUS_HZ if resampled else rate_hz, channels=1, format=form.file,
            subtype=form.encoding,
        )  # fmt: skip

    def write(self, pcm: bytes) -> None:
        """Write samples."""
        samples = np.frombuffer(pcm, "<i2")
        self._file.write(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def close(self) -> None:
        """Write what is left."""
        if self._resampler is not None:
            self._file.write(self._resampler.resample_chunk(np.zeros(0, "<i2"), last=True))
        self._file.close()

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Sink(io.RawIOBase):
    """A file that is sent as it is written, from its beginning to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._size = 0
        self._ready = bytearray()

    def taken(self) -> bytes:
        """What has been written since."""
        ready = bytes(self._ready)
        self._ready.clear()
        return ready

    def write(self, data: Any) -> int:
        """See `io.RawIOBase`."""
        self._ready += bytes(data)
        self._size += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`: there is only one place."""
        return self._size

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._size

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        return 0


def _wav_header(rate_hz: int, size: int | None) -> bytes:
    """RIFF/WAVE of one channel of 16 bit; `size` None: not known yet."""
    whole = _UNKNOWN if size is None else size + _HEADER_BYTES
    data = _UNKNOWN if size is None else size
    form = struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    head = b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    return head + b"data" + struct.pack("<I", data)
