"""multipart/related bodies, however they are cut, and however they are broken."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_image_processing.dicom.multipart import Kind, Parts, location

TYPE = 'multipart/related; type="application/dicom"; boundary=edge'
_CONTENT = st.binary(max_size=300) | st.lists(st.sampled_from([b"\r\n", b"--edge", b"-", b"x"])).map(b"".join)


def _read(pieces: list[bytes], content_type: str = TYPE) -> list[tuple[bytes, bytes]]:
    """Headers and content of each part."""
    parts, found = Parts(content_type), []  # type: Parts, list[tuple[bytes, bytes]]
    for piece in pieces:
        for kind, data in parts.feed(piece):
            if kind is Kind.BEGIN:
                headers, content = data, [b""]
            elif kind is Kind.DATA:
                assert data, "an empty piece says nothing"
                content.append(data)
            else:
                found.append((headers, b"".join(content)))
    parts.finish()
    return found


@given(
    contents=st.lists(_CONTENT, min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 900), max_size=12),
    before=st.sampled_from([b"", b"\r\n", b"a preamble\r\n"]),
    after=st.sampled_from([b"", b"\r\n", b"\r\nan epilogue\r\n--edge\r\n\r\nx\r\n--edge--"]),
)
def test_parts_are_the_same_however_the_body_is_cut(
    contents: list[bytes], cuts: list[int], before: bytes, after: bytes
) -> None:
    # What a boundary in the content itself does is the sender's fault; the part ends there.
    clean = [(content + b"\r\n--edge").partition(b"\r\n--edge")[0] for content in contents]
    sent = [b"--edge\r\nContent-Location: %d\r\n\r\n" % n + one for n, one in enumerate(clean)]
    body = before + b"\r\n".join(sent) + b"\r\n--edge--" + after
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    found = _read([body[start:end] for start, end in itertools.pairwise(places)])
    assert [content for _, content in found] == clean
    assert [location(headers) for headers, _ in found] == [str(n) for n in range(len(clean))]


@given(length=st.integers(0, 80))
def test_a_body_that_ends_early_never_looks_whole(length: int) -> None:
    body = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + b"x" * 20 + b"\r\n--edge--"
    if body[:length].endswith(b"--edge--"):
        return
    with pytest.raises(ValueError, match="ended before"):
        _read([body[:length]])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b""),
        ("multipart/related", b""),
        ("multipart/related; boundary=" + "x" * 300, b""),
        (TYPE, b"--other\r\n\r\nx\r\n--other--"),
        (TYPE, b"no boundary" * 2000),
        (TYPE, b"--edge\r\n" + b"a: b\r\n" * 5000),
    ],
)
def test_what_is_no_multipart_is_refused_in_bounded_memory(content_type: str, body: bytes) -> None:
    with pytest.raises(ValueError):
        _read([body], content_type)


def test_a_boundary_may_be_quoted_and_a_part_may_have_no_headers() -> None:
    quoted = 'multipart/related; boundary="an edge"; type=x'
    assert _read([b"--an edge\r\n\r\nx\r\n--an edge--"], quoted) == [(b"", b"x")]
