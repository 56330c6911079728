"""The file of --client-keys."""

import asyncio
import time
from pathlib import Path

import pytest

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.keys import SqliteKeys
from medical_image_processing.entrypoints import client_keys
from medical_image_processing.errors import Conflict, InvalidRequest
from medical_image_processing.ports.keys import digest


def load(database_file: Path, file: Path) -> dict[str, tuple[str, ...]]:
    """Load the file; who holds keys afterwards."""

    async def work() -> dict[str, tuple[str, ...]]:
        database = Database(database_file)
        try:
            keys = SqliteKeys(database, clock=time.time)
            await client_keys.load(keys, file)
            return {holder.name: holder.client_ids for holder in await keys.holders()}
        finally:
            await database.close()

    return asyncio.run(work())


def test_a_key_made_for_the_file_opens_and_is_not_in_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = client_keys.add(file, "ct-room", ["c1", "c2"])
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    (line,) = client_keys.read(file)
    assert (line.name, line.digest, line.client_ids) == ("ct-room", digest(key), ("c1", "c2"))
    with pytest.raises(Conflict):
        client_keys.add(file, "ct-room", [])


def test_what_the_file_no_longer_says_no_longer_opens(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    client_keys.add(file, "ct-room", ["c1"])
    client_keys.add(file, "reader", [])
    assert load(tmp_path / "mip.db", file) == {"file:ct-room": ("c1",), "file:reader": ()}
    file.write_text("".join(line for line in file.open() if line.startswith("reader")))
    assert load(tmp_path / "mip.db", file) == {"file:reader": ()}


def test_a_client_id_that_moved_to_another_line_opens_nothing_more_and_a_granted_one_stays(tmp_path: Path) -> None:
    file, database_file = tmp_path / "keys", tmp_path / "mip.db"
    file.write_text(f"alice {'a' * 64} client-456\n")
    load(database_file, file)

    async def grant() -> None:
        database = Database(database_file)
        await SqliteKeys(database, clock=time.time).grant_client_id("file:alice", "client-made")
        await database.close()

    asyncio.run(grant())
    file.write_text(f"alice {'a' * 64} alice-only\nbob {'b' * 64} client-456\n")
    for _ in range(2):
        assert load(database_file, file) == {
            "file:alice": ("alice-only", "client-made"),
            "file:bob": ("client-456",),
        }


def test_comments_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the scanners\n\nct-room {'a' * 64} c1  # on the second floor\n")
    assert [key.name for key in client_keys.read(file)] == ["ct-room"]


@pytest.mark.parametrize(
    "line",
    [
        "ct-room",
        f"ct-room {'A' * 64}",
        f"ct-room {'a' * 63} c1",
        f"ct room {'a' * 64} c1",
        f"ct-room {'a' * 64} c1,,c2",
        f"ct-room {'a' * 64} ../c1",
    ],
)
def test_a_bad_line_is_named_and_its_content_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# one\n{line}\n")
    with pytest.raises(InvalidRequest) as caught:
        client_keys.read(file)
    assert caught.value.code == "BAD_CLIENT_KEYS" and "line 2" in caught.value.message
    assert "a" * 63 not in caught.value.message


def test_two_lines_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ct-room {'a' * 64} c1\nct-room {'b' * 64} c1\n")
    with pytest.raises((Conflict, InvalidRequest)):
        load(tmp_path / "mip.db", file)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_a_stated_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        client_keys.read(file)
    assert caught.value.code == "BAD_CLIENT_KEYS"
