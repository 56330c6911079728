"""What an operator sees of a PACS, and what a job may say of storing."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pacs_support import HEADERS, KEY, write_image

from medical_image_processing.dicom.identity import read_description
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.model.job import ProcessRequest
from medical_image_processing.pacs.app import PacsApp
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.ports.keys import digest


def ask(folder: Path, *paths: str, is_operator: bool = True) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        index = FolderIndex(folder)
        index.start()
        archive = FolderArchive(index, LinkSigner())
        keys = HashedKeys({digest(KEY): "operator"})

        async def note(*_: object) -> None: ...

        app = PacsApp(archive, keys, note, describe=archive.describe if is_operator else None)
        try:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://pacs", headers=HEADERS) as client:
                return [await client.get(path) for path in paths]
        finally:
            index.close()

    return asyncio.run(go())


def test_a_folder_s_series_are_described_without_their_patient(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"a/{number}.dcm", "1.2", "1.2.3", z=number)
    write_image(tmp_path / "b/0.dcm", "1.2", "1.2.4")
    image = pydicom.dcmread(tmp_path / "b/0.dcm")
    image.SpecificCharacterSet, image.StudyDescription, image.SeriesDescription = "ISO_IR 192", "Übersicht", None
    image.save_as(tmp_path / "b/0.dcm")
    everything, study, series, none, bad, limited = ask(
        tmp_path,
        "/series",
        "/series?study_id=1.2",
        "/series?series_id=1.2.4",
        "/series?study_id=9.9",
        "/series?limit=0",
        "/series?limit=1",
    )
    assert [(one["series_id"], one["images"]) for one in everything.json()] == [("1.2.3", 3), ("1.2.4", 1)]
    assert everything.json() == study.json()
    [described] = series.json()
    assert (described["modality"], described["date"]) == ("CT", "20040119")
    assert (described["study_description"], described["series_description"]) == ("Übersicht", None)
    assert str(image.PatientName) not in everything.text
    assert none.json() == [] and len(limited.json()) == 1
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "INVALID_QUERY")


def test_algorithms_have_no_such_address(tmp_path: Path) -> None:
    write_image(tmp_path / "0.dcm", "1.2", "1.2.3")
    [answer] = ask(tmp_path, "/series", is_operator=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "UNKNOWN_ROUTE")


@given(content=st.binary(max_size=400), prefix=st.booleans())
def test_a_description_of_anything_is_text(content: bytes, prefix: bool) -> None:
    from io import BytesIO

    said = read_description(BytesIO((bytes(128) + b"DICM" if prefix else b"") + content))
    assert all(isinstance(text, str) for text in (said.date, said.modality, said.study, said.series))


def request(**more: Any) -> ProcessRequest:
    return ProcessRequest.model_validate({"job_id": "j", "pacs": {"study_id": "1.2", "scope": "study"}, **more})


def test_j3_a_job_that_says_nothing_of_storing_is_the_job_it_was_before_that_could_be_said() -> None:
    earlier = {
        "client_id": None,
        "pacs": {"study_id": "1.2", "series_id": None, "image_id": None, "scope": "study"},
        "parameters": {},
    }
    known = hashlib.sha256(json.dumps(["algo_1", earlier], sort_keys=True).encode()).hexdigest()
    assert request().fingerprint("algo_1") == known
    said = {request(store=store).fingerprint("algo_1") for store in (True, False)}
    assert len(said | {known}) == 3


@pytest.mark.parametrize("store", ["yes", 1, [], {}])
def test_storing_is_asked_for_by_true_or_false(store: Any) -> None:
    with pytest.raises(ValueError):
        request(store=store)


def test_a_platform_that_can_not_store_says_so_at_once() -> None:
    from medical_image_processing.control.router import Router

    missing: Any = None
    router = Router(missing, missing, missing, queue_limit=1)
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(router.submit("algo_1", request(store=True)))
    assert refused.value.code == "STORE_NOT_AVAILABLE"
