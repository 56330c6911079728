"""The PACS API over a real socket: what it answers, whom it refuses, and what it says when it can't."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pacs_support import HEADERS, Pacs, serve, write_image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from medical_image_processing.pacs.links import LinkSigner

IMAGE = "/studies/study-1/images/series-1/image-1"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    folder = tmp_path_factory.mktemp("pacs")
    write_image(folder / "study-1/series-1/image-1.dcm")
    with serve(folder, allow_origins=("http://viewer.example",)) as running:
        yield running


def error_code(answer: httpx.Response) -> str:
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["message"]
    return str(answer.json()["error"]["code"])


def test_a_link_opens_the_file_itself_without_a_key(pacs: Pacs) -> None:
    url = pacs.link(IMAGE)

    file = httpx.get(url)

    assert file.status_code == 200
    assert file.headers["content-type"] == "application/dicom"
    assert file.content == (pacs.folder / "study-1/series-1/image-1.dcm").read_bytes()


def test_a_link_says_when_it_expires(pacs: Pacs) -> None:
    answer = pacs.get(IMAGE).json()

    assert set(answer) == {"url", "expires"}
    assert answer["expires"].endswith("Z")


def test_links_do_not_name_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "DOE_JANE/mr/one.dcm")
    with serve(tmp_path) as pacs:
        url = pacs.link("/studies/DOE_JANE/images/mr/one")

    assert "DOE" not in url
    assert "one" not in url


def test_uids_and_paths_name_the_same_image(tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    sop = write_image(tmp_path / "hospital/study-1/a/b/image-1.dcm", study, series)
    names = [
        f"/studies/{study}/images/{series}/{sop}",
        "/studies/hospital/study-1/images/a/b/image-1",
        "/studies/hospital/study-1/images/a/b/image-1.dcm",
        "/studies/hospital%2Fstudy-1/images/a%2Fb/image-1",
    ]
    with serve(tmp_path) as pacs:
        contents = {httpx.get(pacs.link(name)).content for name in names}

    assert contents == {(tmp_path / "hospital/study-1/a/b/image-1.dcm").read_bytes()}


def test_a_folder_called_images_is_a_folder_like_any_other(tmp_path: Path) -> None:
    write_image(tmp_path / "images/images/images.dcm")
    write_image(tmp_path / "p/images/s/images/t/one.dcm")
    with serve(tmp_path) as pacs:
        pacs.link("/studies/images/images/images/images")
        pacs.link("/studies/p/images/images/s/images/t/one")
        pacs.link("/studies/p/images/s/images/images/t/one")
        listed = pacs.get("/studies/p/images/s/images").json()

    assert [one["key"] for one in listed] == ["p/images/s/images/t/one.dcm"]


def test_studies_are_listed_by_uid_in_the_order_of_their_paths(tmp_path: Path) -> None:
    first, second = "1.9.1", "1.1.1"
    for at in range(2):
        write_image(tmp_path / f"a/s/{at}.dcm", first)
        write_image(tmp_path / f"b/s/{at}.dcm", second)
    with serve(tmp_path) as pacs:
        assert pacs.get("/studies").json() == [first, second]


def test_a_series_is_listed_in_geometric_order(tmp_path: Path) -> None:
    for name, z in (("c", 30.0), ("a", 10.0), ("b", -5.5)):
        write_image(tmp_path / f"study/series/{name}.dcm", "1.2", "1.2.3", z=z)
    with serve(tmp_path) as pacs:
        by_uid = pacs.get("/studies/1.2/images?series_id=1.2.3").json()
        by_path = pacs.get("/studies/study/images?series_id=series").json()

    keys = [one["key"] for one in by_uid]
    assert keys == ["study/series/b.dcm", "study/series/a.dcm", "study/series/c.dcm"]
    assert [one["key"] for one in by_path] == keys


def test_a_series_without_positions_is_listed_by_path(tmp_path: Path) -> None:
    for name, z in (("c", 1.0), ("a", None), ("b", 0.0)):
        write_image(tmp_path / f"study/series/{name}.dcm", "1.2", "1.2.3", z=z)
    with serve(tmp_path) as pacs:
        listed = pacs.get("/studies/1.2/images?series_id=1.2.3").json()

    assert [one["key"] for one in listed] == [f"study/series/{name}.dcm" for name in "abc"]


def test_without_series_id_the_whole_study_is_listed_series_after_series(tmp_path: Path) -> None:
    for series, z in (("s1", 2.0), ("s1", 1.0), ("s2", 1.5)):
        write_image(tmp_path / f"study/{series}/{z}.dcm", "1.2", f"1.2.{series[1]}", z=z)
    with serve(tmp_path) as pacs:
        listed = pacs.get("/studies/1.2/images").json()
        contents = [httpx.get(one["url"]).content for one in listed]

    keys = ["study/s1/1.0.dcm", "study/s1/2.0.dcm", "study/s2/1.5.dcm"]
    assert [one["key"] for one in listed] == keys
    assert contents == [(tmp_path / key).read_bytes() for key in keys]


def test_a_copy_of_an_instance_is_listed_once(tmp_path: Path) -> None:
    write_image(tmp_path / "study/series/a.dcm", "1.2", "1.2.3")
    shutil.copy(tmp_path / "study/series/a.dcm", tmp_path / "study/series/b.dcm")
    with serve(tmp_path) as pacs:
        listed = pacs.get("/studies/1.2/images?series_id=1.2.3").json()

    assert [one["key"] for one in listed] == ["study/series/a.dcm"]


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"x-api-key": "wrong"}, {"x-api-key": "\xe9"}])
@pytest.mark.parametrize("path", ["/studies", IMAGE, "/studies/study-1/images", "/studies/../x/images"])
def test_without_the_key_nothing_is_told(pacs: Pacs, path: str, headers: dict[str, str]) -> None:
    answer = pacs.client.get(path, headers={name: value.encode("latin-1") for name, value in headers.items()})

    assert (answer.status_code, error_code(answer)) == (401, "UNAUTHORIZED")


def test_a_removed_key_opens_nothing(tmp_path: Path) -> None:
    with serve(tmp_path) as pacs:
        digest = pacs.keys.digest("second")
        pacs.keys.add(digest, "algo_2")
        before = pacs.client.get("/studies", headers={"x-api-key": "second"})
        pacs.keys.remove(digest)
        after = pacs.client.get("/studies", headers={"x-api-key": "second"})

    assert (before.status_code, after.status_code) == (200, 401)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/studies/other/images", "STUDY_NOT_FOUND"),
        ("/studies/other/images?series_id=series-1", "STUDY_NOT_FOUND"),
        ("/studies/other/images/series-1/image-1", "STUDY_NOT_FOUND"),
        ("/studies/study-1/images?series_id=other", "SERIES_NOT_FOUND"),
        ("/studies/study-1/images/other/image-1", "SERIES_NOT_FOUND"),
        ("/studies/study-1/images/series-1/other", "IMAGE_NOT_FOUND"),
        ("/studies/study/images", "STUDY_NOT_FOUND"),
        ("/studies/study-1/images/series-1", "UNKNOWN_ROUTE"),
        ("/studies/study-1", "UNKNOWN_ROUTE"),
        ("/studies/", "UNKNOWN_ROUTE"),
        ("/", "UNKNOWN_ROUTE"),
        ("/elsewhere", "UNKNOWN_ROUTE"),
    ],
)
def test_what_is_not_there_is_a_404_that_says_what(pacs: Pacs, path: str, code: str) -> None:
    answer = pacs.get(path)

    assert (answer.status_code, error_code(answer)) == (404, code)


@pytest.mark.parametrize(
    "path",
    [
        "/studies/a%00b/images",
        "/studies/a//b/images",
        "/studies/%2e%2e/images/series-1/image-1",
        "/studies/study-1/images?series_id=../series-1",
        "/studies/study-1/images?series_id=%2Fetc",
        "/studies/study-1/images/series-1/DOE%5EJANE",
        f"/studies/{'a' * 513}/images",
        "/studies/study-1/images?" + "&".join(f"a{at}=1" for at in range(50)),
    ],
)
def test_a_malformed_id_is_a_422_that_does_not_repeat_it(pacs: Pacs, path: str) -> None:
    status, body = pacs.raw(path)

    assert status == 422
    assert b"INVALID" in body
    assert b"DOE" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(pacs: Pacs, method: str) -> None:
    answer = pacs.client.request(method, "/studies", headers=HEADERS)

    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert pacs.client.request("DELETE", pacs.link(IMAGE)).status_code == 405


def test_a_link_expires(tmp_path: Path) -> None:
    now = [1_000_000.0]
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    with serve(tmp_path, links=LinkSigner(lifetime_s=60, clock=lambda: now[0])) as pacs:
        url = pacs.link(IMAGE)
        now[0] += 59
        in_time = httpx.get(url)
        now[0] += 1
        late = httpx.get(url)

    assert in_time.status_code == 200
    assert (late.status_code, error_code(late)) == (403, "LINK_EXPIRED")


def test_a_forged_link_opens_nothing(pacs: Pacs) -> None:
    url = httpx.URL(pacs.link(IMAGE))
    token = url.path.rpartition("/")[2]
    epoch, _, row = token.partition("-")
    signature = url.params["signature"]
    forged = [
        url.copy_set_param("expires", str(int(url.params["expires"]) + 1)),
        url.copy_set_param("expires", ""),
        url.copy_set_param("signature", signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        url.copy_set_param("signature", "\u00e9"),
        url.copy_remove_param("signature"),
        url.copy_with(path=f"{pacs.mount}/files/{epoch}-{int(row) + 1}"),
        url.copy_with(path=f"{pacs.mount}/files/"),
        url.copy_with(path=f"{pacs.mount}/files/{token}/x"),
    ]
    for link in forged:
        answer = httpx.get(link)
        assert (answer.status_code, error_code(answer)) == (403, "LINK_INVALID"), link


def test_a_signer_with_another_secret_makes_other_links(tmp_path: Path) -> None:
    write_image(tmp_path / "pacs/study-1/series-1/image-1.dcm")
    cache, folder = tmp_path / "index.db", tmp_path / "pacs"
    with serve(folder, cache_db=cache, links=LinkSigner(b"a" * 32)) as pacs:
        query = httpx.URL(pacs.link(IMAGE))
    with serve(folder, cache_db=cache, links=LinkSigner(b"b" * 32)) as pacs:
        other = httpx.get(pacs.here(query))
    with serve(folder, cache_db=cache, links=LinkSigner(b"a" * 32)) as pacs:
        same = httpx.get(pacs.here(query))

    assert (other.status_code, same.status_code) == (403, 200)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=39000-", 39000, None),
        ("bytes=-50", -50, None),
        ("bytes=100-999999999", 100, None),
        ("bytes=-999999999", 0, None),
    ],
)
def test_a_range_of_the_file(pacs: Pacs, asked: str, start: int, end: int | None) -> None:
    whole = (pacs.folder / "study-1/series-1/image-1.dcm").read_bytes()
    expected = whole[start:end]

    part = httpx.get(pacs.link(IMAGE), headers={"range": asked})

    first = start if start >= 0 else len(whole) + start
    assert part.status_code == 206
    assert part.content == expected
    assert part.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file_is_a_416(pacs: Pacs, asked: str) -> None:
    answer = httpx.get(pacs.link(IMAGE), headers={"range": asked})

    size = (pacs.folder / "study-1/series-1/image-1.dcm").stat().st_size
    assert (answer.status_code, error_code(answer)) == (416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=5-2", "bytes=", "bytes=-", "lines=0-1", "x"])
def test_a_range_header_that_is_not_understood_gives_the_whole_file(pacs: Pacs, asked: str) -> None:
    answer = httpx.get(pacs.link(IMAGE), headers={"range": asked})

    assert answer.status_code == 200
    assert answer.content == (pacs.folder / "study-1/series-1/image-1.dcm").read_bytes()


def test_head_tells_the_size(pacs: Pacs) -> None:
    answer = httpx.head(pacs.link(IMAGE))

    size = (pacs.folder / "study-1/series-1/image-1.dcm").stat().st_size
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(size))
    assert answer.content == b""


def test_a_large_file_comes_whole_and_in_parts(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm", extra=5 * 2**20)
    whole = (tmp_path / "study-1/series-1/image-1.dcm").read_bytes()
    with serve(tmp_path) as pacs:
        url = pacs.link(IMAGE)
        assert httpx.get(url).content == whole
        assert httpx.get(url, headers={"range": "bytes=1000-3000000"}).content == whole[1000:3000001]


def test_a_large_file_that_changes_while_it_is_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "study-1/series-1/image-1.dcm"
    write_image(path, extra=64 * 2**20)
    with serve(tmp_path) as pacs:
        url = pacs.link(IMAGE)
        with pytest.raises(httpx.RemoteProtocolError), httpx.stream("GET", url) as answer:
            pieces = answer.iter_raw(1024)
            next(pieces)
            os.truncate(path, 2**20)
            for _ in pieces:
                pass


def test_a_client_that_leaves_a_large_download_hurts_nobody(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm", extra=64 * 2**20)
    with serve(tmp_path) as pacs:
        url = httpx.URL(pacs.link(IMAGE))
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", pacs.port), timeout=10) as leaving:
                leaving.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % url.raw_path)
                assert leaving.recv(1000).startswith(b"HTTP/1.1 200")
        assert len(httpx.get(url).content) > 64 * 2**20


def test_a_file_deleted_after_its_link_was_given_is_a_404(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    with serve(tmp_path) as pacs:
        url = pacs.link(IMAGE)
        (tmp_path / "study-1/series-1/image-1.dcm").unlink()
        answer = httpx.get(url)
        again = httpx.get(url)

    assert (answer.status_code, error_code(answer)) == (404, "IMAGE_NOT_FOUND")
    assert (again.status_code, error_code(again)) == (404, "IMAGE_NOT_FOUND")


def test_the_link_of_a_deleted_file_never_opens_a_later_one(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    with serve(tmp_path) as pacs:
        url = pacs.link(IMAGE)
        (tmp_path / "study-1/series-1/image-1.dcm").unlink()
        assert pacs.get("/studies/study-1/images").status_code == 404
        write_image(tmp_path / "study-2/series-1/image-1.dcm")
        pacs.link("/studies/study-2/images/series-1/image-1")
        answer = httpx.get(url)

    assert answer.status_code == 404


def test_a_file_changed_after_its_link_was_given_is_a_409_and_a_new_link_works(tmp_path: Path) -> None:
    path = tmp_path / "study-1/series-1/image-1.dcm"
    write_image(path)
    with serve(tmp_path) as pacs:
        url = pacs.link(IMAGE)
        before = path.stat()
        write_image(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = httpx.get(url)
        renewed = httpx.get(pacs.link(IMAGE))
        old_link = httpx.get(url)

    assert (changed.status_code, error_code(changed)) == (409, "IMAGE_CHANGED")
    assert renewed.content == path.read_bytes()
    assert old_link.status_code == 404


def test_a_link_never_follows_a_symbolic_link_put_in_the_files_place(tmp_path: Path) -> None:
    folder = tmp_path / "pacs"
    write_image(folder / "study-1/series-1/image-1.dcm")
    write_image(tmp_path / "elsewhere/image-1.dcm")
    with serve(folder) as pacs:
        url = pacs.link(IMAGE)
        before = (folder / "study-1/series-1/image-1.dcm").stat()
        os.utime(tmp_path / "elsewhere/image-1.dcm", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder / "study-1/series-1").rename(tmp_path / "away")
        (folder / "study-1/series-1").symlink_to(tmp_path / "elsewhere")
        answer = httpx.get(url)

    assert answer.status_code in (404, 409)


def test_every_link_given_out_is_recorded_with_its_job(tmp_path: Path) -> None:
    sops = [write_image(tmp_path / f"study/series/{at}.dcm", "1.2", "1.2.3", z=at) for at in range(3)]
    with serve(tmp_path) as pacs:
        pacs.get(f"/studies/1.2/images/1.2.3/{sops[0]}", **{"x-job-id": "job-7"})
        pacs.get("/studies/1.2/images", **{"x-job-id": "bad id"})
        pacs.get("/studies/1.2/images/1.2.3/unknown")

    assert pacs.accesses == [
        ("algo_1", [("1.2", "1.2.3", sops[0])], "job-7"),
        ("algo_1", [("1.2", "1.2.3", sop) for sop in sops], None),
    ]


def test_links_carry_the_address_the_caller_used(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    with serve(tmp_path) as pacs:
        url = httpx.URL(pacs.get(IMAGE, host="hospital.example:8443").json()["url"])
        answer = httpx.get(pacs.here(url))

    assert (url.scheme, url.host, url.port) == ("http", "hospital.example", 8443)
    assert url.path.startswith(f"{pacs.mount}/files/")
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["a b", "evil.example/x?", "<script>", '"'])
def test_a_malformed_host_is_refused(pacs: Pacs, host: str) -> None:
    answer = pacs.get(IMAGE, host=host)

    assert answer.status_code in (400, 422)


def test_a_page_of_an_allowed_origin_may_call(pacs: Pacs) -> None:
    origin = {"origin": "http://viewer.example"}
    preflight = pacs.client.options("/studies", headers={**origin, "access-control-request-method": "GET"})
    answer = pacs.get(IMAGE, **origin)
    file = httpx.get(answer.json()["url"], headers=origin)

    assert preflight.status_code == 200
    assert "x-api-key" in preflight.headers["access-control-allow-headers"]
    for one in (preflight, answer, file):
        assert one.headers["access-control-allow-origin"] == "http://viewer.example"


def test_a_page_of_another_origin_may_not(pacs: Pacs) -> None:
    origin = {"origin": "http://other.example"}
    preflight = pacs.client.options("/studies", headers={**origin, "access-control-request-method": "GET"})
    answer = pacs.get("/studies", **origin)

    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_images_of_pydicom_as_they_are(tmp_path: Path) -> None:
    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtdose.dcm"):
        (tmp_path / "study/series").mkdir(parents=True, exist_ok=True)
        shutil.copy(str(get_testdata_file(name)), tmp_path / "study/series" / name)
    with serve(tmp_path) as pacs:
        studies = pacs.get("/studies").json()
        mr = pacs.link("/studies/study/images/series/MR_small")
        content = httpx.get(mr).content
        ct = pacs.get("/studies/1.3.6.1.4.1.5962.1.2.1.20040119072730.12322/images").json()

    assert len(studies) == 4
    assert content == Path(str(get_testdata_file("MR_small.dcm"))).read_bytes()
    assert [one["key"] for one in ct] == ["study/series/CT_small.dcm"]
