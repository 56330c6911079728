"""A folder for a new algorithm, made from the package's templates."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from medical_image_processing import naming
from medical_image_processing.entrypoints.images import default_tag
from medical_image_processing.errors import Conflict, InvalidRequest

KINDS = ("python", "native")

_SUFFIX = ".tmpl"


def create_algorithm(algo_id: str, kind: str, folder: Path) -> list[Path]:
    """Fill ``folder``, which must not be there yet; the files made, below it.

    InvalidRequest ``BAD_ALGO_ID``, ``BAD_KIND`` and ``BAD_TAG``; Conflict ``FOLDER_EXISTS``.
    """
    if not naming.is_algo_id(algo_id):
        raise InvalidRequest(
            "BAD_ALGO_ID",
            f"'{algo_id}' can't name an algorithm: use up to 48 small letters, digits, - and _, a letter first, "
            "such as my_algo; not 'results', nor anything that ends in '-dlq'",
        )
    if kind not in KINDS:
        raise InvalidRequest("BAD_KIND", f"--kind {kind}: it is {' or '.join(KINDS)}")
    if folder.exists():
        raise Conflict("FOLDER_EXISTS", f"{folder} is there already; choose another NAME or --output FOLDER")
    names = _names(algo_id, default_tag(folder))
    files = dict(_templates(resources.files("medical_image_processing") / "templates" / kind))
    made = []
    for path, text in files.items():
        file = folder / _filled(path, names).removesuffix(_SUFFIX)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_filled(text, names))
        made.append(file.relative_to(folder))
    return sorted(made)


def _names(algo_id: str, image: str) -> dict[str, str]:
    """What stands for the placeholders. The package's suffix keeps it off the standard library's names."""
    words = algo_id.replace("-", "_")
    return {
        "ALGO_ID": algo_id,
        "IMAGE": image,
        "PACKAGE": f"{words}_processor",
        "PROJECT": f"{words.replace('_', '-')}-processor",
        "CLASS": "".join(word.capitalize() for word in words.split("_")),
    }


def _templates(folder: Traversable, prefix: str = "") -> list[tuple[str, str]]:
    """Path and text of every template below ``folder``."""
    found = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            found += _templates(entry, f"{path}/")
        elif entry.name.endswith(_SUFFIX):
            found.append((path, entry.read_text(encoding="utf-8")))
    return found


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    return text
