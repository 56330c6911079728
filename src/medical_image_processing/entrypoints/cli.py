"""``mip``: the platform's command line.

Everything but ``up``, ``demo`` and ``test`` is a client of the HTTP API, of the platform that
``MIP_API_BASE`` names. Exit status: 0 done, 1 it failed and one line says why, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from medical_image_processing.entrypoints import (
    cli_algorithms,
    cli_author,
    cli_deploy,
    cli_jobs,
    cli_keys,
    cli_pacs,
)
from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.dimse_options import DimseOptions
from medical_image_processing.entrypoints.pacs_options import CACHE_MIB, PacsOptions
from medical_image_processing.errors import InvalidRequest, MipError, Unavailable

if TYPE_CHECKING:
    from medical_image_processing.entrypoints.settings import Settings

_EPILOG = (
    "algorithms, jobs, keys, process, studies and accesses call the platform at MIP_API_BASE (else "
    "http://127.0.0.1:8080), with the keys in MIP_ADMIN_KEY, MIP_CLIENT_KEY and PACS_API_KEY; `. HOME/env` sets "
    "them, and `mip env` prints those of AWS. Research use only."
)


class _Mip(TyperGroup):
    """States failures in one line, and never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MipError as error:
            output.print_error(error, ctx)
        except BrokenPipeError:
            # Nobody reads any more, as with `mip jobs list | head`; the rest must not be flushed to them.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            said = f"{place}{error.strerror or error}"
            output.print_error(Unavailable("OS_ERROR", f"the system refused: {said}"), ctx)
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Mip,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_algorithms.app, name="algorithms")
app.add_typer(cli_jobs.app, name="jobs")
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_deploy.app, name="deploy")


def _print_version(value: bool) -> None:
    if value:
        from medical_image_processing import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def mip(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run medical-imaging algorithms: register one, send it studies, get DICOM back."""


@app.command()
def up(
    context: typer.Context,
    home: Annotated[
        Path,
        typer.Option(envvar="MIP_HOME", metavar="DIR", help="Where it keeps everything.", show_default="~/.mip"),
    ] = Path("~/.mip"),
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8080,
    pacs: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="The PACS: a folder of DICOM files, or a DICOMweb server's address; else a sample CT.",
            show_default=False,
        ),
    ] = None,
    pacs_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="The user at the DICOMweb server.", show_default=False)
    ] = None,
    pacs_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="That user's password.", show_default=False)
    ] = None,
    pacs_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A bearer token instead of both.", show_default=False)
    ] = None,
    pacs_client_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate to show to it (PEM).", show_default=False),
    ] = None,
    pacs_client_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="That certificate's key (PEM).", show_default=False)
    ] = None,
    pacs_ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The authorities that its certificate is of (PEM).", show_default=False),
    ] = None,
    pacs_cache_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Keep up to N MiB of its images on disk; 0 keeps none.",
            show_default=str(CACHE_MIB),
        ),
    ] = None,
    dimse_port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Take C-STORE on this port, 11112 as a rule; 0 takes a free one.",
            show_default=False,
        ),
    ] = None,
    dimse_host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The address for it.", show_default="127.0.0.1"),
    ] = None,
    dimse_node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TITLE=HOST:PORT",
            help="A node that may send, and gets the results; may be repeated.",
            show_default=False,
        ),
    ] = None,
    dimse_title: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TITLE=ALGO_ID",
            help="A called AE title for an algorithm, beside its id in upper case; may be repeated.",
            show_default=False,
        ),
    ] = None,
    dimse_send_to: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE",
            help="The node that gets all results, instead of the one that sent the images.",
            show_default=False,
        ),
    ] = None,
    dimse_any_address: Annotated[
        bool, typer.Option("--dimse-any-address", help="Let nodes call from any address, not just their host's.")
    ] = False,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="docker|process",
            help="What runs the workers; docker where an engine answers, else process.",
            show_default=False,
        ),
    ] = None,
    allow_commands: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Let algorithms run the executables in this folder, as your own user and unconfined.",
            show_default=False,
        ),
    ] = None,
    client_keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Clients need a key of this file.", show_default=False),
    ] = None,
    open_clients: Annotated[
        bool, typer.Option("--open-clients", help="Let anybody who reaches it send jobs and read results.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A web page's origin that may call it; may be repeated."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The address of a proxy before it, like https://mip.hospital.example; links lead there.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start the platform, and stay up until Ctrl-C.

    A browser finds the web client at its address. Only this machine reaches it, unless --host or --public-url says
    otherwise; then clients need keys (--client-keys), or must be let in by name (--open-clients). DIR/env has its
    addresses and keys: `. DIR/env` sets them in a shell.
    """
    from medical_image_processing.entrypoints.server import configure_logging, run_platform
    from medical_image_processing.entrypoints.settings import Settings

    options = PacsOptions(
        pacs=pacs,
        user=pacs_user,
        password_file=pacs_password_file,
        token_file=pacs_token_file,
        client_certificate=pacs_client_certificate,
        client_key=pacs_client_key,
        ca_file=pacs_ca_file,
        cache_mib=pacs_cache_mib,
    )
    dimse = DimseOptions(
        port=dimse_port,
        host=dimse_host,
        nodes=tuple(dimse_node or ()),
        titles=tuple(dimse_title or ()),
        send_to=dimse_send_to,
        any_address=dimse_any_address,
    )
    configure_logging()
    home = home.expanduser().absolute()
    settings = Settings(
        home=home,
        pacs=options.server() or Path(pacs or ".").absolute(),
        pacs_cache_mib=CACHE_MIB if pacs_cache_mib is None else pacs_cache_mib,
        may_store=pacs is not None,
        dimse=dimse.settings(),
        host=host,
        port=port,
        runtime=runtime,
        allow_commands=allow_commands.absolute() if allow_commands else None,
        client_keys=client_keys,
        open_clients=open_clients,
        admin_key=os.environ.get("MIP_ADMIN_KEY") or None,
        allow_origins=tuple(cors_origin or Settings.allow_origins),
        public_url=public_url,
    )
    settings.check()  # before anything is fetched
    if pacs is None:
        settings = replace(settings, pacs=_sample_pacs().absolute())
    status = run_platform(settings, announce=lambda addresses: _announce(addresses.public, home, settings))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # calls to a Docker engine that hangs must not keep the process


@app.command()
def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where the results go.")] = Path(
        "demo-output"
    ),
    as_json: output.AsJson = False,
) -> None:
    """See it work on a real abdominal CT.

    Starts a platform of its own, fetches the CT (38 MB, once), registers processing_1, processes one
    image and the whole series, and writes the DICOM results and a picture of the liver it found.
    """
    from medical_image_processing.entrypoints.demo import run_demo

    run_demo(folder, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def test(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="PYTEST_ARGS", help="Passed on to pytest.", show_default=False),
    ] = None,
) -> None:
    """Install what tests need, and run them all.

    These are ruff, mypy, import-linter and pytest; arguments are passed on to pytest.
    """
    launcher = Path(__file__).parents[3] / "launcher.py"
    if not launcher.is_file():
        raise InvalidRequest("NOT_A_CLONE", "the tests come with a clone of the project: run ./mip test there")
    os.execv(sys.executable, [sys.executable, "-P", str(launcher), "test", *(arguments or [])])  # noqa: S606


app.command()(cli_jobs.process)
app.command()(cli_jobs.cancel)
app.command()(cli_pacs.studies)
app.command()(cli_pacs.accesses)
app.command()(cli_author.build)
app.command()(cli_author.new)
app.command()(cli_author.check)
app.command()(cli_deploy.env)


def _sample_pacs() -> Path:
    from medical_image_processing.entrypoints.sample_pacs import sample_pacs

    return sample_pacs()


def _announce(addresses: dict[str, str], home: Path, settings: Settings) -> None:
    from medical_image_processing.entrypoints.web_client import find_built

    missing = "missing, since it is not built: docs/web-client.md"
    public = settings.public_address.origin if settings.public_address else None
    output.print_fields(
        [
            ("web client", f"{public or addresses['API_BASE']}/" if find_built() else missing),
            ("for clients", public),
            ("API", addresses["API_BASE"]),
            ("results", addresses["WS_ENDPOINT"]),
            ("PACS", addresses["PACS_API_BASE"]),
            ("SQS and S3", addresses["AWS_ENDPOINT_URL"]),
            ("C-STORE", f"port {addresses['DIMSE_PORT']}" if "DIMSE_PORT" in addresses else None),
            ("workers", addresses["MIP_RUNTIME"]),
            ("in a shell", f". {home / 'env'}"),
        ]
    )
    sys.stdout.flush()


def main() -> None:
    """The ``mip`` command."""
    app(prog_name="mip")


if __name__ == "__main__":
    main()
