"""``mip keys``: who may call a platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_output import AsJson
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.ports.keys import KeyRole

app = typer.Typer(no_args_is_help=True, help="Make, list and withdraw keys.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whom the key is for.", show_default=False)]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    role: Annotated[KeyRole, typer.Option(metavar="ROLE", help="client or admin.")] = KeyRole.CLIENT,
    client_ids: Annotated[
        str | None,
        typer.Option(metavar="ID,ID", help="client_ids that are this client's already.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add it to this file for `mip up --client-keys`; needs no platform."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it.

    It is shown this once: the platform keeps a hash. A client sees the jobs and results of its own
    client_ids only: those given here, and those it gets from POST /provision.
    """
    ids = [part for part in (client_ids or "").split(",") if part]
    if role is KeyRole.ADMIN and (ids or file):
        raise typer.BadParameter("--client-ids and --file are for clients", param_hint="--role")
    answer = _add_to_file(file, name, ids) if file else _add_to_platform(name, role, ids)
    if as_json:
        output.print_json(answer)
        return
    typer.echo(answer["key"])
    header = "x-admin-key" if role is KeyRole.ADMIN else "x-api-key"
    output.print_note(f"the key of '{name}', for the {header} header; keep it, it isn't shown again")


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List who holds keys; never the keys."""
    with Client.from_environment() as client:
        answer = client.call("GET", "admin", "keys")
    if as_json:
        output.print_json(answer)
        return
    if not answer["keys"]:
        output.print_note("no keys; `mip keys add NAME` makes one")
        return
    rows = [
        (key["name"], key["role"], ", ".join(key["client_ids"]), output.ago(key["created_at"]))
        for key in answer["keys"]
    ]
    output.print_table(("name", "role", "client_ids", "made"), rows)


@app.command()
def remove(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Withdraw a key. It opens nothing from then on."""
    with Client.from_environment() as client:
        client.call("DELETE", "admin", "keys", name)
    if as_json:
        output.print_json({"name": name})
    else:
        output.print_note(f"the key of '{name}' opens nothing any more")


def _add_to_platform(name: str, role: KeyRole, client_ids: list[str]) -> dict[str, Any]:
    body = {"name": name, "role": role.value, "client_ids": client_ids}
    with Client.from_environment() as client:
        answer: dict[str, Any] = client.call("POST", "admin", "keys", body=body)
    return answer


def _add_to_file(file: Path, name: str, client_ids: list[str]) -> dict[str, Any]:
    from medical_image_processing.entrypoints import client_keys

    key = client_keys.add(file, name, client_ids)
    return {"name": name, "role": KeyRole.CLIENT.value, "client_ids": client_ids, "key": key}
