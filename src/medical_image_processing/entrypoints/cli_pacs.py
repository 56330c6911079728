"""``mip studies`` and ``mip accesses``: what the PACS holds, and who read it."""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from medical_image_processing.entrypoints import cli_output as output
from medical_image_processing.entrypoints.cli_output import AsJson, Cursor
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.errors import NotFound


def studies(
    context: typer.Context,
    which: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Only this study, or this series, by its UID.", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the middle image of the series ID, or of a study's largest one, as a PNG.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The most series to show.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List what the PACS holds, series by series.

    Patients' names are not asked for. Needs the operator's key to the PACS API, PACS_API_KEY in HOME/env.
    """
    if picture is not None and which is None:
        raise typer.BadParameter("name the series whose picture it is", param_hint="ID")
    with Client.from_environment() as client:
        found = _find(client, which, limit)
        if picture is not None:
            size = _write_picture(client, found, which, picture)
            if not as_json:
                output.print_note(f"{picture} ({output.size(size)})")
                return
    if as_json:
        output.print_json({"series": found})
        return
    if not found:
        output.print_note("the PACS holds no images yet")
        return
    lines = []
    for study, its in groupby(sorted(found, key=_study_of), key=_study_of):
        several = list(its)
        lines.append((study, _in_words(_date(several[0]["date"]), several[0]["study_description"])))
        lines += [(f"  {one['series_id']}", _series_in_words(one)) for one in several]
    output.print_named(lines)
    if len(found) == limit:
        output.print_note("there may be more; --limit shows more of them")


def accesses(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Option(metavar="UID", help="Only this study's images.", show_default=False)
    ] = None,
    algo: Annotated[
        str | None, typer.Option(metavar="ALGO_ID", help="Only what this algorithm read.", show_default=False)
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="JOB_ID", help="Only what was read for this job.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="The most to show.")] = 100,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List who read which image, newest first.

    Each reading has its study, its series, and below them the images. Needs the admin key. `operator` is
    whoever used the operator's own key to the PACS API.
    """
    params = {"study": study, "algo": algo, "job": job, "limit": limit, "cursor": cursor}
    with Client.from_environment() as client:
        page = client.call("GET", "admin", "accesses", params=params)
    if as_json:
        output.print_json(page)
        return
    if not page["accesses"]:
        output.print_note("nobody read such images")
        return
    lines = []
    for (algo_id, job_id, *uids), its in groupby(page["accesses"], key=_reading_of):
        several = list(its)
        by = _in_words(algo_id, f"job {job_id}" if job_id else "", output.ago(several[0]["at"]))
        lines += [by, *(f"  {uid}" for uid in uids), *(f"    {one['image_uid']}" for one in several)]
    output.print_named([(line, "") for line in lines])
    output.print_more(page["next_cursor"])


def _study_of(series: dict[str, Any]) -> str:
    return str(series["study_id"])


def _series_in_words(series: dict[str, Any]) -> str:
    instances = "" if series["images"] is None else output.count(series["images"], "instance")
    return _in_words(series["modality"], instances, series["series_description"])


def _reading_of(access: dict[str, Any]) -> tuple[str, str | None, str, str]:
    return access["algo_id"], access["job_id"], access["study_uid"], access["series_uid"]


def _in_words(*texts: str | None) -> str:
    """Those that there are. What came out of headers may hold anything, and a terminal would obey it."""
    words = ", ".join(text for text in texts if text)
    return "".join(character if character.isprintable() else "�" for character in words)


def _date(text: str | None) -> str:
    """A DA (PS3.5, section 6.2) for people."""
    is_date = text is not None and len(text) == 8 and text.isascii() and text.isdecimal()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if text and is_date else text or ""


def _find(client: Client, which: str | None, limit: int) -> list[dict[str, Any]]:
    """Series: all, a study's, or the one."""
    if which is None:
        return list(client.call("GET", "pacs", "series", params={"limit": limit}))
    for name in ("series_id", "study_id"):
        if found := client.call("GET", "pacs", "series", params={name: which, "limit": limit}):
            return list(found)
    raise NotFound("SERIES_NOT_FOUND", "the PACS has no such study or series; `mip studies` lists what it has")


def _write_picture(client: Client, found: list[dict[str, Any]], which: str | None, picture: Path) -> int:
    """Of the series ``which``, or of a study's largest one that holds images and not results."""
    # These imports take a while, and other commands need none of them.
    from medical_image_processing.dicom.picture import slice_png
    from medical_image_processing.dicom.read import read_header, read_image
    from medical_image_processing.dicom.study import is_input

    for series in sorted(found, key=lambda one: (-(one["images"] or 0), one["series_id"])):
        data = _middle_image(client, series)
        if series["series_id"] == which or is_input(read_header(data)):
            png = slice_png(read_image(data))
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png)
            return len(png)
    raise NotFound("NO_PICTURE", "the study holds no images but segmentations and results; name one of its series")


def _middle_image(client: Client, series: dict[str, Any]) -> bytes:
    params = {"series_id": series["series_id"], "only": "middle"}
    [image] = client.call("GET", "pacs", "studies", series["study_id"], "images", params=params)
    with tempfile.TemporaryDirectory(prefix="mip-picture-") as folder:
        file = Path(folder) / "image.dcm"
        client.download(image["url"], file)
        return file.read_bytes()
