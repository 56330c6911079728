"""An algorithm.json that can't be right is told before anything is built."""

import json
from pathlib import Path

import pytest

from medical_image_processing.entrypoints.check import read_algorithm_json
from medical_image_processing.errors import InvalidRequest


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cpus": 1, "memory": "much"}, ["cpus: Extra inputs", "memory: Input should be"]),
        ({"cpu": 1000}, ["cpu must be one of"]),
        ({"algorithm_id": "No"}, ["algo_id: "]),
        ([], ["it is no JSON object"]),
    ],
)
def test_the_file_and_all_that_is_wrong_are_named(tmp_path: Path, given: object, words: list[str]) -> None:
    (tmp_path / "algorithm.json").write_text(json.dumps(given))
    with pytest.raises(InvalidRequest) as said:
        read_algorithm_json(tmp_path)
    for word in (str(tmp_path / "algorithm.json"), *words):
        assert word in said.value.message


def test_what_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert read_algorithm_json(tmp_path) == {}
    (tmp_path / "algorithm.json").write_text('{"algorithm_id": "one", "cpu": 2048, "memory": 4096}')
    assert read_algorithm_json(tmp_path)["cpu"] == 2048
