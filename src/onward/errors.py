"""The error tree: every error has a stable code, an HTTP status and an exit code, and says what would be right.

Codes are part of the public interface (`docs/reference/errors.md`); messages are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

# Characters: of a place, of what was found (the end of another program's report, say), of what we say ourselves.
_MOST_PLACE, _MOST_FOUND, _MOST_TOLD = 400, 1_200, 4_000


class OnwardError(Exception):
    """Something went wrong in Onward."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str = "", *, where: str = "", expected: str = "", found: str = "") -> None:
        self.message = _bounded(message, _MOST_TOLD) or _sentence(type(self).__doc__ or "")
        self.where = _bounded(where, _MOST_PLACE)
        self.expected = _bounded(expected, _MOST_TOLD)
        self.found = _bounded(found, _MOST_FOUND)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.rule}; found {self.found}" if self.found else self.rule

    @property
    def rule(self) -> str:
        """What went wrong and what would be right, without anything of what was given."""
        told = f"{self.where}: {self.message}" if self.where else self.message
        return f"{told}; expected {self.expected}" if self.expected else told

    def as_dict(self) -> Mapping[str, Any]:
        """The error as a body for machines: stable code, message and, where known, field, expected and found."""
        named = {"code": self.code, "message": str(self), "field": self.where}
        named |= {"expected": self.expected, "found": self.found}
        return {key: value for key, value in named.items() if value}


def _bounded(text: str, most: int) -> str:
    """A text that anyone can write and keep: not longer than it helps, and without halves of characters."""
    if len(text) > most:
        text = text[: most - 1] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sentence(docstring: str) -> str:
    """A docstring's first line as a message: without the capital and the full stop, since more follows it."""
    text = docstring.strip().partition("\n")[0].rstrip(".")
    return text[:1].lower() + text[1:]


class InputError(OnwardError):
    """The input does not fit the package's signature."""

    code = "INVALID_INPUT"
    status = 400
    exit_code = 65


class MissingInput(InputError):
    """An input that the package needs is missing."""

    code = "MISSING_INPUT"


class UnknownInput(InputError):
    """An input has a name that the package does not know."""

    code = "UNKNOWN_INPUT"


class WrongDatatype(InputError):
    """An input has another datatype than the signature says."""

    code = "WRONG_DATATYPE"


class WrongShape(InputError):
    """An input has another shape than the signature says."""

    code = "WRONG_SHAPE"


class OutOfRange(InputError):
    """A value lies outside the range that the signature allows."""

    code = "OUT_OF_RANGE"


class UnknownOutput(InputError):
    """An output was requested that the package does not have."""

    code = "UNKNOWN_OUTPUT"


class MalformedBody(InputError):
    """The body could not be read in the form its headers promise."""

    code = "MALFORMED_BODY"


class CorruptMedia(InputError):
    """An image or audio clip could not be decoded."""

    code = "CORRUPT_MEDIA"


class UnsupportedMedia(InputError):
    """The package does not take input of this media type."""

    code = "UNSUPPORTED_MEDIA"
    status = 415


class TooLarge(InputError):
    """The input is larger than the package's limits allow."""

    code = "TOO_LARGE"
    status = 413


class TooSlow(InputError):
    """The request came too slowly."""

    code = "TOO_SLOW"
    status = 408


class NotFound(OnwardError):
    """There is nothing of that name here."""

    code = "NOT_FOUND"
    status = 404
    exit_code = 66


class SourceNotAllowed(OnwardError):
    """Nothing may be fetched from this place."""

    code = "SOURCE_NOT_ALLOWED"
    status = 403
    exit_code = 77


class SourceUnreachable(OnwardError):
    """The place that a package is fetched from does not give it."""

    code = "SOURCE_UNREACHABLE"
    status = 502
    exit_code = 69


class MethodNotAllowed(OnwardError):
    """This path does not take requests of this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    exit_code = 64


class ModelNotFound(NotFound):
    """The repository has no such model or version."""

    code = "MODEL_NOT_FOUND"


class PackageError(OnwardError):
    """The package is not valid."""

    code = "INVALID_PACKAGE"
    status = 500
    exit_code = 65


class ManifestError(PackageError):
    """The manifest is not valid."""

    code = "INVALID_MANIFEST"


class DigestMismatch(PackageError):
    """A file of the package is not what `onward.lock` says."""

    code = "DIGEST_MISMATCH"


class NotSigned(PackageError):
    """The package is not signed, and only signed packages are taken here."""

    code = "NOT_SIGNED"


class SignatureRefused(PackageError):
    """The signature is not by a trusted key, or is of other contents."""

    code = "SIGNATURE_REFUSED"


class RefusedGraph(PackageError):
    """The graph may not be served."""

    code = "REFUSED_GRAPH"


class ParityError(PackageError):
    """The packed model's answers differ from the original's beyond the tolerance."""

    code = "PARITY"


class GoldenExampleFailed(PackageError):
    """A golden example does not give the output that the package promises."""

    code = "GOLDEN_EXAMPLE_FAILED"


class NotInvariant(PackageError):
    """The package promises answers that do not depend on company, and its model does not give them."""

    code = "NOT_INVARIANT"


class NotForEdge(PackageError):
    """The package cannot run on a device by itself."""

    code = "NOT_FOR_EDGE"


class QuantizedTooFar(PackageError):
    """The smaller model's answers are too far from the original's."""

    code = "QUANTIZED_TOO_FAR"


class NothingToQuantize(PackageError):
    """The model has no weights that could be rounded."""

    code = "NOTHING_TO_QUANTIZE"


class RunnersDisagree(PackageError):
    """Two runners of a package give answers that are further apart than rounding."""

    code = "RUNNERS_DISAGREE"


class BeyondBounds(OnwardError):
    """What was measured is beyond the stated bounds."""

    code = "BEYOND_BOUNDS"
    status = 500
    exit_code = 65


class PolicyError(ManifestError):
    """The policy is not valid."""

    code = "INVALID_POLICY"


class PolicyTestFailed(PackageError):
    """A test of the policy gives another decision than it expects."""

    code = "POLICY_TEST_FAILED"


class ArgumentRefused(OnwardError):
    """An action's argument is not what the action takes."""

    code = "ARGUMENT_REFUSED"
    status = 422
    exit_code = 65


class MissingExtra(OnwardError):
    """An optional part of Onward is needed and not installed."""

    code = "MISSING_EXTRA"
    status = 500
    exit_code = 69


class KeyRefused(OnwardError):
    """The key cannot be used for signatures."""

    code = "KEY_REFUSED"
    status = 500
    exit_code = 65


class MissingProvider(OnwardError):
    """This machine has none of the execution providers that the package asks for."""

    code = "PROVIDER_MISSING"
    status = 500
    exit_code = 69


class Unavailable(OnwardError):
    """The model is not ready."""

    code = "NOT_READY"
    status = 503
    exit_code = 69


class Overloaded(OnwardError):
    """The queue is full.

    `promised_rows` are those that are let in before others if they come when told.
    """

    code = "QUEUE_FULL"
    status = 429
    exit_code = 75

    def __init__(
        self, message: str = "", *, retry_after_s: float = 1.0, promised_rows: int = 0, **details: str
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s
        self.promised_rows = promised_rows


class DeadlineExceeded(OnwardError):
    """The deadline passed before the answer was ready."""

    code = "DEADLINE_EXCEEDED"
    status = 504
    exit_code = 75


class Cancelled(OnwardError):
    """The caller left before the answer was ready."""

    code = "CANCELLED"
    status = 499
    exit_code = 75


class ExecutionError(OnwardError):
    """The model failed on this input."""

    code = "EXECUTION_FAILED"
    status = 500
    exit_code = 70


class UnpicklingRefused(OnwardError):
    """Something was to be unpickled, and nothing may be while answers are given."""

    code = "UNPICKLING_REFUSED"
    status = 500
    exit_code = 70


class UsageError(OnwardError):
    """The command was called in a way it does not understand."""

    code = "USAGE"
    status = 400
    exit_code = 64
