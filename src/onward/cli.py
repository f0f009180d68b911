"""The `onward` command: parse → options → one runner call. Anything heavy is imported inside the commands.

Exit codes are those of sysexits.h where one fits; `docs/reference/cli.md` lists them. A user's mistake is one line on
standard error, never a traceback.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from onward import __version__
from onward.errors import OnwardError, Unavailable, UsageError

_PORT = click.IntRange(1, 65_535)
_SECONDS = click.FloatRange(0, 86_400)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="onward")
def cli() -> None:
    """AI inference: one package, four ways to run it, one answer."""


@cli.command()
@click.argument("repository", type=click.Path(exists=True, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8000, show_default=True, help="Port for inference.")
@click.option("--admin-port", type=_PORT, default=8002, show_default=True, help="Port for /admin, loopback only.")
@click.option("--insecure", is_flag=True, help="Allow an address beyond this machine although there are no keys.")
@click.option(
    "--keep-versions",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Serve the newest N versions of each model.",
)
@click.option(
    "--watch-interval",
    type=_SECONDS,
    default=1.0,
    show_default=True,
    help="Look for new versions every so many seconds; 0: never.",
)
@click.option(
    "--drain-grace", type=_SECONDS, default=0.0, show_default=True, help="Seconds to accept on after SIGTERM."
)
def serve(**options: Any) -> None:
    """Serve every package of REPOSITORY (or one package) over HTTP."""
    from onward.runners.serve.server import ServeOptions
    from onward.runners.serve.server import serve as serve_repository

    if options["port"] == options["admin_port"]:
        raise UsageError("inference and admin need a port each", where="--admin-port", found=str(options["admin_port"]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    settings = ServeOptions(
        watch_interval_s=options.pop("watch_interval"), drain_grace_s=options.pop("drain_grace"), **options
    )
    try:
        serve_repository(settings)
    except SystemExit as left:  # uvicorn's way out where it cannot listen; it has said why
        sys.exit(Unavailable.exit_code if left.code else 0)


@cli.command()
@click.argument("package")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--outputs", default="", help="Further outputs, by name, that are computed only on request.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines even in a terminal.")
def run(package: str, inputs: tuple[str, ...], outputs: str, as_json: bool) -> None:
    """Answer INPUTs here: JSON, text, files (.json .jsonl .txt, images), or - for standard input."""
    from onward.runners import local

    local.run(package, inputs, outputs=tuple(filter(None, map(str.strip, outputs.split(",")))), as_json=as_json)


@cli.command()
@click.argument("package")
@click.option("--json", "as_json", is_flag=True, help="JSON even in a terminal.")
def inspect(package: str, as_json: bool) -> None:
    """Show what a package takes, does and gives."""
    from onward.runners import local

    local.inspect(package, as_json=as_json)


@cli.command()
@click.argument("package")
@click.option("--json", "as_json", is_flag=True, help="JSON even in a terminal.")
def verify(package: str, as_json: bool) -> None:
    """Check a package: digests, graphs, and every golden example run on this machine."""
    from onward.runners import local

    local.verify(package, as_json=as_json)


@cli.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Name of the package; by default the source's.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the package.")
@click.option("--licence", default="", help="Licence of the weights.")
@click.option("--description", default="", help="What the model does, in a sentence.")
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="An .npz file of what the original gave, to compare with: for encoders and state dicts.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Names of a state dict's classes, one a line.",
)
@click.option(
    "--tolerance", type=click.FloatRange(0, 1e6), default=None, help="How far answers may differ from the original's."
)
def pack(source: Path, out: Path, **options: Any) -> None:
    """Make a package from SOURCE, a model file or folder. OUT may end in .onward.

    SOURCE is an ONNX file, a folder with a manifest, the folder of a BERT encoder, or an EfficientNet-lite .pth.
    """
    from onward.runners import local

    local.pack(source, out, **options)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        cli.main(standalone_mode=False)
    except OnwardError as error:
        _stop(f"{error} [{error.code}]", error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.Abort:
        _stop("interrupted", 130)
    except click.ClickException as error:
        _stop(error.format_message() + _hint(error), 64)
    except OSError as error:
        _stop(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 74)
    except Exception as error:  # a fault of ours: still one line, unless someone wants to see where
        if os.environ.get("ONWARD_TRACEBACK"):
            raise
        _stop(f"{type(error).__name__}: {error}; ONWARD_TRACEBACK=1 shows where [{OnwardError.code}]", 70)


def _hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"\nTry: {context.command_path} --help" if context is not None else ""


def _stop(message: str, code: int) -> None:
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    sys.exit(code)
