"""How many connections this process can hold: open files are limited, and some are needed for other things."""

from __future__ import annotations

import resource

# Kept for packages to be loaded, the store, the admin port, children; more where there is plenty.
_LEAST_KEPT = 64
_KEPT_SHARE = 0.1


def raise_limit() -> None:
    """As many open files as this process may have: the usual soft limit of 1024 is meant for programs with `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # a platform that allows less than it says
            return


def most_connections() -> int:
    """The connections at a time beyond which more are refused, so that what needs a file finds one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return max(int(soft - max(_LEAST_KEPT, soft * _KEPT_SHARE)), 1)
