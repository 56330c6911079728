"""The disk cache: what comes out is what went in under that name, or nothing; and never more than its limit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from medical_image_processing.pacs.cache import InstanceCache

LIMIT = 4096
NAMES = st.sampled_from([f"image {number}" for number in range(8)])
CONTENTS = st.binary(max_size=1500) | st.integers(1000, 5000).map(bytes)


def content_of(cache: InstanceCache, name: str) -> bytes | None:
    pieces = cache.read(name)
    return None if pieces is None else b"".join(pieces)


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


class CacheLaws(RuleBasedStateMachine):
    """Puts, reads, damage, unfinished entries and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        self.folder = Path(self._place.name) / "cache"
        self.cache = InstanceCache(self.folder, LIMIT)
        self.put_last: dict[str, bytes] = {}
        self.damaged: set[str] = set()

    def teardown(self) -> None:
        self._place.cleanup()

    @rule(name=NAMES, content=CONTENTS, pieces=st.integers(1, 4))
    def put(self, name: str, content: bytes, pieces: int) -> None:
        step = max(1, len(content) // pieces)
        with self.cache.begin(name) as entry:
            for start in range(0, max(1, len(content)), step):
                entry.write(content[start : start + step])
            entry.commit()
        self.put_last[name] = content

    @rule(name=NAMES, content=CONTENTS)
    def give_up(self, name: str, content: bytes) -> None:
        with self.cache.begin(name) as entry:
            entry.write(content)

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        content = content_of(self.cache, name)
        assert content is None or content == self.put_last[name]

    @rule(seed=st.integers(0, 10_000))
    def damage(self, seed: int) -> None:
        chance = random.Random(seed)
        # One that was cut to nothing before can't be damaged more.
        files = sorted(file for file in self.folder.iterdir() if file.stat().st_size)
        if not files:
            return
        file = chance.choice(files)
        data = bytearray(file.read_bytes())
        match chance.randrange(3):
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:  # another's bytes
                data = bytearray(chance.choice(files).read_bytes())
        if len(data) <= file.stat().st_size:
            file.write_bytes(data)

    @rule(limit=st.sampled_from([LIMIT, LIMIT // 2]))
    def restart(self, limit: int) -> None:
        (self.folder / "0123.part").write_bytes(b"x" * 100)
        (self.folder / "stranger").write_bytes(b"x" * 100)
        self.cache = InstanceCache(self.folder, limit)
        assert on_disk(self.folder) <= limit
        self.cache = InstanceCache(self.folder, LIMIT)

    @invariant()
    def never_more_than_its_limit(self) -> None:
        assert on_disk(self.folder) <= LIMIT
        assert self.cache.used_bytes <= LIMIT


CacheLaws.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCacheLaws = CacheLaws.TestCase


@given(contents=st.lists(st.binary(min_size=1, max_size=400), min_size=3, max_size=12, unique=True))
@settings(max_examples=25, deadline=None)
def test_the_longest_unused_goes_first(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        cache = InstanceCache(Path(place), 1500)
        for number, content in enumerate(contents):
            cache.put(f"image {number}", content)
            assert content_of(cache, "image 0") is not None, "it was used just now"


def test_an_image_larger_than_the_cache_is_not_kept_and_no_trouble(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, 1000)
    cache.put("large", bytes(5000))
    assert content_of(cache, "large") is None and cache.used_bytes == 0 and not list(tmp_path.iterdir())


def test_an_entry_that_is_being_read_may_go_and_is_still_read_whole(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, 3_000_000)
    cache.put("one", bytes(2_500_000))
    reading = cache.read("one")
    assert reading is not None
    first = next(reading)
    cache.put("two", bytes(2_000_000))
    assert len(first) + sum(map(len, reading)) == 2_500_000
    assert content_of(cache, "one") is None


def test_an_entry_ends_after_its_time(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, LIMIT, max_age_s=100)
    cache.put("old", b"x")
    [file] = tmp_path.iterdir()
    os.utime(file, (time.time(), time.time() - 200))
    assert content_of(cache, "old") is None and not list(tmp_path.iterdir())


def test_a_start_keeps_the_newest_within_its_limit(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, 100_000)
    for number in range(50):
        cache.put(f"image {number}", bytes(1000))
    again = InstanceCache(tmp_path, 20_000)
    assert again.used_bytes <= 20_000
    assert content_of(again, "image 49") == bytes(1000)


def test_threads_share_it(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, 50_000)
    wrong: list[str] = []

    def use(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            number = chance.randrange(40)
            content = b"%d" % number * 500
            if chance.random() < 0.5:
                cache.put(f"image {number}", content)
            elif content_of(cache, f"image {number}") not in (None, content):
                wrong.append(f"image {number}")

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert on_disk(tmp_path) == cache.used_bytes <= 50_000


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3])
def test_it_survives_a_kill(tmp_path: Path, after_s: float) -> None:
    writing = (
        "import sys; from pathlib import Path; from medical_image_processing.pacs.cache import InstanceCache\n"
        "cache = InstanceCache(Path(sys.argv[1]), 2_000_000)\n"
        "for n in range(10**9):\n"
        "    cache.put(f'image {n % 30}', b'%d' % (n % 30) * 40_000)\n"
        "    if not n: print('one is kept', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", writing, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert on_disk(tmp_path) <= 2_000_000
    cache = InstanceCache(tmp_path, 2_000_000)
    assert on_disk(tmp_path) == cache.used_bytes
    found = [number for number in range(30) if (content_of(cache, f"image {number}") == b"%d" % number * 40_000)]
    assert found and len(found) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("length", [5000, None], ids=["known", "unknown"])
def test_what_is_larger_than_the_cache_empties_it_not(tmp_path: Path, length: int | None) -> None:
    cache = InstanceCache(tmp_path, 4000)
    for number in range(8):
        cache.put(f"image {number}", bytes(400))
    with cache.begin("large", length) as entry:
        for _ in range(50):
            entry.write(bytes(100))
        entry.commit()
    kept = sum(f"image {number}" in cache for number in range(8))
    assert kept == 8 if length else kept >= 4
    assert content_of(cache, "large") is None


def test_entries_that_wait_for_each_other_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    cache = InstanceCache(tmp_path, 40_000)
    for is_whole in (False, True):
        entries = [cache.begin(f"image {number}") for number in range(20)]
        for entry in entries:
            entry.write(b"x" * 1000)
            entry.finish()
        assert not any(f"image {number}" in cache for number in range(20))
        for entry in entries:
            if is_whole:
                entry.commit()
            entry.close()
        assert all((f"image {number}" in cache) is is_whole for number in range(20))
        assert on_disk(tmp_path) == cache.used_bytes
