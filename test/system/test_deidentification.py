"""Algorithms that must not know the patient: what they receive is searched for identifiers, byte by byte, and what
they made is opened on the other side."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import httpx
import pydicom
import pytest
from botocore.exceptions import ClientError

import identified
import recording_worker
from api_calls import Api, error_of, until
from dicomweb_proxy import running_proxy
from identified import SERIES, STUDY, found_in, sop_uid
from orthanc import running_orthanc
from platform_process import Platform, unconfined

pytestmark = pytest.mark.needs("dciodvfy", "setpriv")
ALGORITHM, KNOWING = "processing_1", "processing_6"
COUNT = 4
OUTPUTS = ["SC", "SEG", "SR"]
SCOPES: dict[str, dict[str, str]] = {
    "image": {"study_id": STUDY, "series_id": SERIES, "image_id": sop_uid(2), "scope": "image"},
    "series": {"study_id": STUDY, "series_id": SERIES, "scope": "series"},
    "study": {"study_id": STUDY, "scope": "study"},
    "image by path": {
        "study_id": "GRUENWALDT_ZOELINE",
        "series_id": "ct-quirinetta",
        "image_id": "GRUENWALDT2.dcm",
        "scope": "image",
    },
    "series by path": {"study_id": "GRUENWALDT_ZOELINE", "series_id": "ct-quirinetta", "scope": "series"},
}


@dataclass(frozen=True)
class Stage:
    """A platform over a PACS, and the folder of what its de-identifying algorithm received."""

    kind: str
    platform: Platform
    api: Api
    record: Path
    knowing: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the algorithm was started with."""
        return dict(json.loads((self.record / "environment.json").read_text()))

    def pseudonyms(self) -> dict[str, str]:
        """Real names by pseudonyms."""
        with sqlite3.connect(f"file:{self.platform.home / 'mip.db'}?mode=ro", uri=True) as database:
            return dict(database.execute("SELECT pseudonym, name FROM pseudonyms"))

    def pacs(self, path: str, **query: str) -> httpx.Response:
        """What the PACS API answers the algorithm."""
        environment = self.environment
        headers = {"x-api-key": environment["PACS_API_KEY"]}
        return httpx.get(f"{environment['PACS_API_BASE']}{path}", headers=headers, params=query)


@pytest.fixture(scope="module", params=["folder", "orthanc"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp(f"deidentified-{request.param}")
    if request.param == "folder":
        write_folder(folder / "pacs")
        with started(folder, "folder", folder / "pacs", []) as running:
            yield running
        return
    if not Path("/usr/sbin/Orthanc").exists():
        pytest.skip("Orthanc is not installed")
    with running_orthanc(folder) as orthanc:
        orthanc.store(identified.images(COUNT))
        password = folder / "password"
        password.write_text(orthanc.password)
        options = ["--pacs-user", orthanc.user, "--pacs-password-file", str(password)]
        with started(folder, "orthanc", orthanc.base, options) as running:
            yield running


def write_folder(pacs: Path) -> None:
    series = pacs / identified.PATH
    series.mkdir(parents=True)
    for number, image in enumerate(identified.images(COUNT)):
        (series / f"GRUENWALDT{number}.dcm").write_bytes(identified.encoded(image))


class started:
    """A stage as a context manager."""

    def __init__(self, folder: Path, kind: str, pacs: Path | str, options: list[str]) -> None:
        commands = folder / "commands"
        commands.mkdir()
        self._command = recording_worker.install(commands)
        self._platform = Platform(folder / "home", pacs=pacs, options=[*options, *unconfined(commands)])
        self._kind, self._folder = kind, folder

    def __enter__(self) -> Stage:
        platform = self._platform.__enter__()
        record, knowing = self._folder / "record", self._folder / "knowing"
        api = Api(platform)
        api.register(ALGORITHM, command=[self._command, str(record)], outputs=OUTPUTS, deidentify=True)
        api.register(KNOWING, command=[self._command, str(knowing)])
        return Stage(self._kind, platform, api, record, knowing)

    def __exit__(self, *how: Any) -> None:
        self._platform.__exit__(*how)


def scopes_of(stage: Stage) -> list[str]:
    return [name for name in SCOPES if stage.kind == "folder" or "path" not in name]


def jobs_of(stage: Stage) -> list[dict[str, Any]]:
    return [stage.api.succeeds(ALGORITHM, pacs=SCOPES[name]) for name in scopes_of(stage)]


def test_nothing_that_an_algorithm_receives_names_the_patient(stage: Stage) -> None:
    jobs_of(stage)
    given = recording_worker.received(stage.record)
    assert b"ANONYMIZED" in given and b"2.25." in given, "it did receive images and jobs"
    assert given.count(b"DICM") >= COUNT
    assert found_in(given) == set()
    logs = b"".join(file.read_bytes() for file in stage.platform.home.glob("logs/**/*.log"))
    assert b"the job is done" in logs and found_in(logs) == set()


def test_the_search_finds_them_where_nothing_was_taken_out(stage: Stage) -> None:
    stage.api.succeeds(KNOWING, pacs=SCOPES["image"])
    assert found_in(recording_worker.received(stage.knowing)) >= {
        identified.FAMILY,
        identified.PATIENT_ID,
        identified.ROOT,
        identified.TAKEN,
        identified.PHYSICIAN,
    }


def test_results_are_of_the_patient_and_refer_to_the_real_images(stage: Stage, tmp_path: Path) -> None:
    source = identified.images(1)[0]
    taken = {sop_uid(number) for number in range(COUNT)}
    for name, job in zip(scopes_of(stage), jobs_of(stage), strict=True):
        outputs = job["result"]["outputs"]
        assert [one["kind"] for one in outputs] == OUTPUTS, name
        contents = [stage.api.download(one["url"]) for one in outputs]
        results = [pydicom.dcmread(_written(tmp_path / "result.dcm", content)) for content in contents]
        own = {str(result.SOPInstanceUID) for result in results}
        assert not own & taken
        for result, content in zip(results, contents, strict=True):
            for keyword in (
                "PatientName",
                "PatientID",
                "PatientBirthDate",
                "StudyDate",
                "AccessionNumber",
                "StudyID",
            ):
                assert result[keyword].value == source[keyword].value, (name, keyword)
            assert result.StudyInstanceUID == STUDY
            assert "PatientIdentityRemoved" not in result and "DeidentificationMethod" not in result
            assert result.get("FrameOfReferenceUID", identified.FRAME) == identified.FRAME
            referred = set(uids(result, 0x00081155))
            assert referred and referred <= taken | own, name
            assert not [one for one in stage.pseudonyms() if one.encode() in content], name
            check(tmp_path / "result.dcm", content)
        said = job["result"]["provenance"]["input"]["sop_instance_uids"]
        assert said and set(said) <= taken


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def uids(dataset: Any, tag: int) -> Iterator[str]:
    for element in dataset.iterall():
        if element.tag == tag:
            yield str(element.value)


def check(file: Path, content: bytes) -> None:
    said = subprocess.run(
        ["dciodvfy", str(_written(file, content))], capture_output=True, text=True, timeout=60
    ).stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")], said


def test_b10_the_owner_is_told_what_it_sent_and_nobody_what_a_pseudonym_stands_for(stage: Stage) -> None:
    for name, job in zip(scopes_of(stage), jobs_of(stage), strict=True):
        assert job["pacs"] == SCOPES[name]
    listed = stage.api.get("/jobs", algo_id=ALGORITHM).json()["jobs"]
    assert listed and all(one["pacs"] in SCOPES.values() for one in listed)
    [study] = stage.pacs("/studies").json()
    asked = {"study_id": study, "scope": "study"}
    for algo_id in (KNOWING, ALGORITHM):  # in league with one that has learned the pseudonym
        job_id = stage.api.process(algo_id, pacs=asked)
        assert stage.api.job(job_id)["pacs"] == asked
        assert found_in(json.dumps(stage.api.until_ended(job_id)).encode()) == set()


def test_a4_the_access_record_has_the_real_images(stage: Stage) -> None:
    job = stage.api.succeeds(ALGORITHM, pacs=SCOPES["series"])
    with stage.platform.client() as client:
        read = client.call("GET", "admin", "accesses", params={"job": job["job_id"]})["accesses"]
    assert {(one["study_uid"], one["series_uid"], one["image_uid"]) for one in read} == {
        (STUDY, SERIES, sop_uid(number)) for number in range(COUNT)
    }


def test_a1_the_algorithms_key_opens_nothing_that_names_the_patient(stage: Stage) -> None:
    stage.api.succeeds(ALGORITHM, pacs=SCOPES["series"])
    [study] = stage.pacs("/studies").json()
    assert stage.pseudonyms()[study] == STUDY
    for path in (f"/studies/{STUDY}/images", f"/studies/{identified.PATH}/images"):
        assert stage.pacs(path).status_code == 404
    assert stage.pacs(f"/studies/{STUDY}/images/{SERIES}/{sop_uid(0)}").status_code == 404
    assert stage.pacs("/series").status_code == 404, "descriptions are for the operator alone"
    listed = stage.pacs(f"/studies/{study}/images").json()
    assert len(listed) == COUNT
    answers = [httpx.get(one["url"]) for one in listed]
    assert all(found_in(one.content) == set() for one in answers)
    assert found_in(json.dumps(listed).encode()) == set()
    bundle = stage.pacs(f"/studies/{study}/images", series_id=listed[0]["key"].split("/")[1], bundle="1")
    assert bundle.headers["x-image-count"] == str(COUNT)
    assert bundle.content.count(b"DICM") == COUNT and found_in(bundle.content) == set()


def test_a1_a_link_opens_what_it_was_signed_for(stage: Stage) -> None:
    """The signature of an image without the patient does not open the same image with the patient."""
    stage.api.succeeds(ALGORITHM, pacs=SCOPES["image"])
    study = stage.pacs("/studies").json()[0]
    url = httpx.URL(stage.pacs(f"/studies/{study}/images").json()[0]["url"])
    environment = stage.platform.env
    operators = httpx.get(
        f"{environment['PACS_API_BASE']}/studies/{STUDY}/images/{SERIES}/{sop_uid(0)}",
        headers={"x-api-key": environment["PACS_API_KEY"]},
    ).json()["url"]
    assert found_in(httpx.get(operators).content), "the operator's link opens the image as it is"
    real = httpx.URL(operators).path.partition("/files/")[2]
    forged = url.copy_with(path=f"{url.path.partition('/files/')[0]}/files/{real}")
    assert httpx.get(forged).status_code == 403


def test_a1_results_with_the_patient_are_out_of_the_algorithms_reach(stage: Stage) -> None:
    job = stage.api.succeeds(ALGORITHM, pacs=SCOPES["image"])
    where = {"Bucket": job["result"]["dicom"]["bucket"], "Key": job["result"]["dicom"]["key"]}
    environment = stage.environment
    s3 = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    tries = (lambda: s3.get_object(**where), lambda: s3.put_object(**where, Body=b"other"))
    for attempt in tries:
        with pytest.raises(ClientError) as refused:
            attempt()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_the_pacs_gets_results_of_the_patient(stage: Stage) -> None:
    before = series_of(stage)
    answer = stage.api.post(f"/process/{ALGORITHM}", {"pacs": SCOPES["series"], "store": True})
    job = stage.api.until_job(answer.json()["job_id"], "SUCCEEDED")
    until(lambda: stage.api.job(job["job_id"])["stored"]["status"] != "pending", "it was tried")
    assert stage.api.job(job["job_id"])["stored"] == {"status": "done", "attempts": 1, "error": None}
    results = [pydicom.dcmread(BytesIO(stage.api.download(one["url"]))) for one in job["result"]["outputs"]]
    until(lambda: {one.SeriesInstanceUID for one in results} == series_of(stage) - before, "they lie in the study")


def series_of(stage: Stage) -> set[str]:
    """All series of the patient's study, as the operator sees them."""
    base, key = stage.platform.env["PACS_API_BASE"], stage.platform.env["PACS_API_KEY"]
    answer = httpx.get(f"{base}/series", headers={"x-api-key": key}, params={"study_id": STUDY})
    return {one["series_id"] for one in answer.json()}


def test_deidentify_is_chosen_once(stage: Stage) -> None:
    for algo_id, value in ((ALGORITHM, False), (KNOWING, True)):
        answer = stage.api.http.patch(f"/admin/algorithms/{algo_id}", json={"deidentify": value})
        assert (answer.status_code, error_of(answer)) == (409, "DEIDENTIFY_FIXED")
    assert stage.api.http.patch(f"/admin/algorithms/{ALGORITHM}", json={"deidentify": True}).status_code == 200


def test_images_that_show_a_name_fail_the_job_with_the_reason(tmp_path: Path) -> None:
    """In a series that is fetched whole, and in an image that is fetched by its link."""
    write_folder(tmp_path / "pacs")
    last = tmp_path / "pacs" / identified.PATH / f"GRUENWALDT{COUNT - 1}.dcm"
    image = pydicom.dcmread(last)
    image.BurnedInAnnotation = "YES"
    image.save_as(last)
    report = tmp_path / "pacs" / "report.dcm"
    image.SeriesInstanceUID, image.SOPInstanceUID = f"{identified.ROOT}.66", f"{identified.ROOT}.67"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    del image.PixelData
    image.save_as(report)
    with started(tmp_path, "folder", tmp_path / "pacs", []) as stage:
        shown = {**SCOPES["image"], "image_id": sop_uid(COUNT - 1)}
        for pacs in (SCOPES["series"], shown, SCOPES["study"]):
            assert stage.api.fails(ALGORITHM, pacs=pacs) == "BURNED_IN_ANNOTATION"
        report_only = {"study_id": STUDY, "series_id": str(image.SeriesInstanceUID), "scope": "series"}
        assert stage.api.fails(ALGORITHM, pacs=report_only) == "NOT_AN_IMAGE"
        last.unlink()
        assert stage.api.succeeds(ALGORITHM, pacs=SCOPES["study"]), "a report beside the images is left out"
        assert found_in(recording_worker.received(stage.record)) == set()


@pytest.mark.needs("Orthanc")
def test_j1_j2_a_platform_killed_before_a_result_has_its_patient_gives_it_later(tmp_path: Path) -> None:
    with running_orthanc(tmp_path) as orthanc, running_proxy(orthanc.base) as proxy:
        orthanc.store(identified.images(COUNT))
        (tmp_path / "password").write_text(orthanc.password)
        options = ["--pacs-user", orthanc.user, "--pacs-password-file", str(tmp_path / "password")]
        with started(tmp_path, "orthanc", proxy.base, options) as stage:
            # The worker asks for the series; only the way back asks which instances it has.
            proxy.refuse = lambda method, path: 503 if path.partition("?")[0].endswith("/instances") else None
            job_id = stage.api.process(ALGORITHM, pacs=SCOPES["series"])
            until(lambda: (stage.api.job(job_id)["error"] or {}).get("code") == "PACS_UNAVAILABLE", "it waits")
            stage.platform.kill()
            proxy.refuse = lambda *_: None
            stage.platform.start()
            job = Api(stage.platform).until_ended(job_id, wait_s=90)
            assert job["status"] == "SUCCEEDED", job["error"]
            made = pydicom.dcmread(BytesIO(stage.api.download(job["result"]["dicom"]["url"])))
            assert (made.PatientID, made.StudyInstanceUID) == (identified.PATIENT_ID, STUDY)
            assert len(list((stage.platform.home / "output" / "_reidentified").rglob("*.dcm"))) == len(OUTPUTS)
