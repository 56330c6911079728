"""What an executable leaves in folders that are its worker's alone."""

import os
from pathlib import Path

import numpy as np
import pytest

from medical_image_processing.errors import AlgorithmFailed
from medical_image_processing.worker.executable import Executable
from medical_image_processing.worker.native_processor import NativeProcessor

LITTER = """#!/bin/sh
mkdir -p "$OWN/folder/inner"
echo secret > "$OWN/folder/inner/file"
chmod 0 "$OWN/folder"
echo secret > "$OWN/file"
ln -s "$OUTSIDE" "$OWN/link"
exit 1
"""


def test_it_is_gone_after_the_job_and_what_was_there_stays(tmp_path: Path) -> None:
    own, outside, program = tmp_path / "own", tmp_path / "outside", tmp_path / "program"
    for folder in (own, outside):
        folder.mkdir()
        (folder / "kept").write_text("x")
    program.write_text(LITTER)
    program.chmod(0o755)
    executable = Executable(program, time_limit_s=60, log=lambda *_: None)
    env = {**os.environ, "OWN": str(own), "OUTSIDE": str(outside)}
    absent = tmp_path / "absent"
    processor = NativeProcessor(executable, "mask", env=env, own_folders=[own, absent])
    for _ in range(2):
        with pytest.raises(AlgorithmFailed):
            processor.run(np.zeros((2, 2), np.int16))
        assert (own / "file").exists()
        processor.end_job()
        assert [path.name for path in own.iterdir()] == ["kept"]
    assert [path.name for path in outside.iterdir()] == ["kept"]
