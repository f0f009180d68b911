"""What can end a scoring job."""

from __future__ import annotations

from onward.errors import OnwardError


class SourceUnreadable(OnwardError):
    """The input cannot be read."""

    code = "SOURCE_UNREADABLE"
    status = 400
    exit_code = 66


class OutputFailed(OnwardError):
    """The output cannot be written."""

    code = "OUTPUT_FAILED"
    exit_code = 73


class OutputBusy(OnwardError):
    """Another job is writing to this output."""

    code = "OUTPUT_BUSY"
    status = 409
    exit_code = 75


class JobChanged(OnwardError):
    """The output belongs to another job, or to this one with another package, input or options."""

    code = "JOB_CHANGED"
    status = 409
    exit_code = 65


class TooManyRejects(OnwardError):
    """More rows were rejected than the job may reject."""

    code = "TOO_MANY_REJECTS"
    status = 400
    exit_code = 65


class DatabaseUnavailable(OnwardError):
    """The database cannot be reached."""

    code = "DATABASE_UNAVAILABLE"
    status = 503
    exit_code = 69
