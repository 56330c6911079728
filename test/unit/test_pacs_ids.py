"""Whatever a caller asks for, only DICOM files below the PACS folder are ever served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pacs_support import Pacs, serve, write_image

SERVED = ("study/series/image.dcm", "study/series/plain", "images/1.2.3/images.dcm", "image.dcm")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """A folder with images to serve, and images that must not be served beside and below it."""
    around = tmp_path_factory.mktemp("around")
    folder = around / "root"
    for path in SERVED:
        write_image(folder / path)
    for path in (
        "secret.dcm",
        "study/series/secret.dcm",
        "root-2/series/image.dcm",
        "root/.hidden/series/image.dcm",
    ):
        write_image(around / path)
    write_image(folder / "study/series/.image.dcm")
    (folder / "study/series/notes").write_text("not a DICOM file")
    (folder / "study/series/link.dcm").symlink_to(around / "secret.dcm")
    (folder / "study/link").symlink_to(around / "study/series")
    (folder / "link").symlink_to(around)
    (folder / "study/loop").symlink_to(folder)
    with serve(folder) as running:
        yield running


segments = st.sampled_from(
    [
        "study", "series", "image", "image.dcm", "plain", "images", "1.2.3", "secret", "secret.dcm", "root",
        "root-2", "link", "link.dcm", "loop", "notes", ".hidden", ".image.dcm", "..", ".", "", "%2e%2e", "%2E",
        "%252e%252e", "%00",
        "image.dcm%00", "..%2f..", "%2fetc%2fpasswd", "..%5c..", "etc", "passwd", "%c0%ae", "%", "~", "*",
    ]
)  # fmt: skip
slashes = st.sampled_from(["/", "/", "/", "%2F", "//", "\\"])


@st.composite
def ids(draw: st.DrawFn) -> str:
    parts = draw(st.lists(segments, min_size=1, max_size=5))
    return "".join(part + draw(slashes) for part in parts[:-1]) + parts[-1]


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40)


@st.composite
def targets(draw: st.DrawFn) -> str:
    image = f"/studies/{draw(ids())}/images/{draw(ids())}/{draw(segments)}"
    listing = f"/studies/{draw(ids())}/images" + draw(st.just("") | ids().map("?series_id={}".format))
    return draw(st.sampled_from([image, listing]) | ids().map("/{}".format) | printable.map("/{}".format))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=targets())
def test_nothing_outside_the_folder_is_ever_served(pacs: Pacs, target: str) -> None:
    allowed = {(pacs.folder / path).read_bytes() for path in SERVED}

    status, body = pacs.raw(target)

    assert status in (200, 400, 403, 404, 422)
    if status != 200:
        return
    answer = json.loads(body)
    links = [answer] if isinstance(answer, dict) else [one for one in answer if isinstance(one, dict)]
    for link in links:
        url = urlsplit(link["url"])
        status, content = pacs.raw(f"{url.path.removeprefix(pacs.mount)}?{url.query}")
        assert status == 200
        assert content in allowed


def test_the_property_above_can_reach_what_is_served(pacs: Pacs) -> None:
    assert pacs.raw("/studies/study/images/series/image")[0] == 200
    assert pacs.raw("/studies/study%2F/images/series/image")[0] == 422
    assert pacs.raw("/studies/images/images/1.2.3/images")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "study/link/secret",
        "study/series/link",
        "link/study/series/secret",
        "study/series/.image",
        ".hidden/series/image",
        "study/series/notes",
        "study/loop/study/series/image",
    ],
)
def test_links_hidden_files_and_other_files_are_not_found(pacs: Pacs, path: str) -> None:
    study, _, rest = path.partition("/")

    status, body = pacs.raw(f"/studies/{study}/images/{rest}")

    assert status == 404
    assert b"NOT_FOUND" in body


def test_a_folder_that_is_itself_a_link_is_served(tmp_path: Path) -> None:
    write_image(tmp_path / "real/study/series/image.dcm")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with serve(tmp_path / "link") as pacs:
        pacs.link("/studies/study/images/series/image")


def test_names_that_are_no_text_do_not_stop_the_index(tmp_path: Path) -> None:
    write_image(tmp_path / "study/series/image.dcm", "1.2", "1.2.3")
    strange = bytes(tmp_path) + b"/M\xfcller/series"
    Path(strange.decode("utf-8", "surrogateescape")).mkdir(parents=True)
    shutil.copy(tmp_path / "study/series/image.dcm", strange + b"/image.dcm")
    sop = write_image(tmp_path / "DOE^JANE Ä/series/image 1.dcm", "1.3", "1.3.1")
    with serve(tmp_path) as pacs:
        assert set(pacs.get("/studies").json()) == {"1.2", "1.3"}
        pacs.link(f"/studies/1.3/images/1.3.1/{sop}")
        assert pacs.get("/studies/1.3/images").json()[0]["key"] == "DOE^JANE Ä/series/image 1.dcm"
