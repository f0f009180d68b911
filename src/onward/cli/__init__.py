"""The `onward` command: parse → options → one runner call. Anything heavy is imported inside the commands.

Exit codes are those of sysexits.h where one fits; `docs/reference/cli.md` lists them. A user's mistake is one line on
standard error, never a traceback.
"""

from __future__ import annotations

import os
import sys

import click

from onward import __version__
from onward.cli import (
    audit,
    batch,
    cloud,
    compare,
    edge,
    explain,
    migration,
    outbox,
    packages,
    people,
    serving,
    signing,
    tune,
)
from onward.errors import MissingExtra, OnwardError

_OF_DECIDE = frozenset({"cel_expr_python", "cryptography", "httpcore", "sqlalchemy"})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="onward")
def cli() -> None:
    """AI inference: one package, four ways to run it, one answer."""


for _command in (
    serving.serve,
    packages.run,
    batch.batch,
    edge.edge,
    cloud.cloud,
    packages.inspect,
    packages.verify,
    packages.pack,
    migration.import_group,
    signing.sign,
    compare.compare,
    tune.tune,
    people.chat,
    people.profiles,
    audit.audit,
    audit.decide,
    outbox.actions,
    outbox.approvals,
    outbox.kill_switch,
    serving.relay,
    explain.explain,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        cli.main(prog_name="onward", standalone_mode=False)
    except OnwardError as error:
        _stop(f"{error} [{error.code}]", error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        _stop("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:  # a command is missing: show which there are
        click.echo(error.format_message(), err=True)
        sys.exit(64)
    except click.ClickException as error:
        _stop(error.format_message() + _hint(error), 64)
    except OSError as error:
        _stop(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 74)
    except Exception as error:  # a fault of ours: still one line, unless someone wants to see where
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _OF_DECIDE:
            missing = MissingExtra(f"this needs {error.name}", expected="pip install 'onward[decide]'")
            _stop(f"{missing} [{missing.code}]", missing.exit_code)
        if os.environ.get("ONWARD_TRACEBACK"):
            raise
        _stop(f"{type(error).__name__}: {error}; ONWARD_TRACEBACK=1 shows where [{OnwardError.code}]", 70)


def _hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"\nTry: {context.command_path} --help" if context is not None else ""


def _stop(message: str, code: int) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    sys.exit(code)
