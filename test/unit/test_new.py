"""``mip new``: what it makes and what it refuses. That both kinds build and run is in system/test_check.py."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medical_image_processing.entrypoints.check import read_algorithm_json, read_registration
from medical_image_processing.entrypoints.cli import app
from medical_image_processing.entrypoints.images import Image
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.model.algorithm import AlgorithmSpec


def new(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new", *arguments], prog_name="mip")


@pytest.mark.parametrize("kind", ["python", "native"])
def test_the_folder_is_whole(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "liver-2"
    done = new("liver-2", "--kind", kind, "--output", str(folder))
    assert done.exit_code == 0
    assert f"mip check {folder}" in done.stderr
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"Dockerfile", "README.md", "algorithm.json", "test_liver_2_processor.py"} <= {f.name for f in files}
    for file in files:
        assert "@" not in file.read_text().replace("@pytest", ""), f"a placeholder is left in {file.name}"
        if file.suffix == ".py":
            compile(file.read_text(), file, "exec")
    spec = AlgorithmSpec.model_validate_json((folder / "algorithm.json").read_text())
    assert (spec.algorithm_id, spec.image_uri) == ("liver-2", "mip-algos:liver-2")


def test_the_package_names_its_algorithm(tmp_path: Path) -> None:
    assert new("class", "--kind", "python", "--output", str(tmp_path / "x")).exit_code == 0
    project = tomllib.loads((tmp_path / "x" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["medical_image_processing.processors"] == {"class": "class_processor:Class"}


@pytest.mark.parametrize("name", ["Liver", "results", "x-dlq", "1st", "a b", ""])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    done = new(name, "--kind", "python", "--output", str(tmp_path / "x"))
    assert done.exit_code == 1
    assert "(BAD_ALGO_ID)" in done.stderr
    assert not (tmp_path / "x").exists()


def test_other_kinds_and_folders_that_exist_are_refused(tmp_path: Path) -> None:
    assert "python or native" in new("liver", "--kind", "cobol", "--output", str(tmp_path / "x")).stderr
    done = new("liver", "--kind", "python", "--output", str(tmp_path))
    assert done.exit_code == 1
    assert "is there already" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tag", "algo_id"),
    [
        ("mip-algos:liver", "liver"),
        ("acme/Liver.Net:2", "liver_net"),
        ("registry:5000/a/b:1", "b"),
        ("9:9", "checked"),
    ],
)
def test_an_image_alone_is_registered_under_its_name(tag: str, algo_id: str) -> None:
    body = read_registration({}, image(tag, "/app/run", "x"))
    assert body["algo_id"] == algo_id
    assert body["command"] == ["/app/run", "x"]
    AlgorithmSpec.model_validate(body)


def test_a_folder_is_registered_as_it_says(tmp_path: Path) -> None:
    said = {"algorithm_id": "liver", "image_uri": "else:where", "cpu": 256, "memory": 512, "command": ["/b"]}
    (tmp_path / "algorithm.json").write_text(json.dumps(said))
    body = read_registration(read_algorithm_json(tmp_path), image("mip-algos:built", "/app/run"))
    assert AlgorithmSpec.model_validate(body).image_uri == "mip-algos:built"
    assert (body["algo_id"], body["cpu"], body["command"]) == ("liver", 256, ["/b"])
    (tmp_path / "algorithm.json").write_text("[]")
    with pytest.raises(InvalidRequest, match="no JSON object"):
        read_algorithm_json(tmp_path)


def image(tag: str, *command: str) -> Image:
    return Image(tag, "sha256:0", 1, "10001", "amd64", command)
