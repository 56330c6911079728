"""Peers that speak DIMSE with a platform: dcmtk's programs, and bytes on a socket."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from platform_process import Platform

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
NODE = "SCANNER"
WAIT_S = 30.0


def series(count: int = 3, *, name: str = "1", patient: str = "Doe^Jane") -> list[Any]:
    """CT slices with UIDs of their own, the same for the same ``name``."""
    images = []
    for number in range(count):
        image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        image.PatientName = image.PatientID = patient
        image.StudyInstanceUID = generate_uid(entropy_srcs=["study", name])
        image.SeriesInstanceUID = generate_uid(entropy_srcs=["series", name])
        image.SOPInstanceUID = generate_uid(entropy_srcs=["image", name, str(number)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.ImagePositionPatient, image.InstanceNumber = [0, 0, 5.0 * number], number + 1
        images.append(image)
    return images


def files(folder: Path, images: Iterable[Any]) -> list[str]:
    """The images as files, for a program that sends them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, image in enumerate(images):
        names.append(str(folder / f"{number}.dcm"))
        image.save_as(names[-1])
    return names


def dcmtk(program: str, port: int, *more: str, calling: str = NODE, called: str = "PROCESSING_1") -> Any:
    """Run echoscu or storescu against the platform."""
    command = [program, "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(port), *more]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


class StoreScp:
    """dcmtk's storescp: what came stands in ``folder``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def instances(self) -> list[Any]:
        """What came, as data sets."""
        return [pydicom.dcmread(file) for file in sorted(self.folder.iterdir())]

    def uids(self) -> list[str]:
        return sorted(str(one.SOPInstanceUID) for one in self.instances())


@contextmanager
def running_storescp(folder: Path, port: int, *options: str) -> Iterator[StoreScp]:
    """A node that takes everything, unless ``options`` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["setpriv", "--pdeathsig", "TERM", "storescp", "+xa", *options, "-od", str(folder), str(port)]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert server.poll() is None and time.monotonic() < end, "storescp does not start"
            time.sleep(0.02)
        yield StoreScp(folder, port)
    finally:
        server.kill()
        server.wait()


def dimse_options(port: int, *nodes: tuple[str, int]) -> list[str]:
    """``mip up``'s options; nodes by title and port."""
    options = ["--dimse-port", str(port)]
    for title, at in nodes:
        options += ["--dimse-node", f"{title}=127.0.0.1:{at}"]
    return options


def associate(port: int, *, calling: str = NODE, called: str = "PROCESSING_1") -> Association:
    """An association of pynetdicom, for a test that does by hand what dcmtk's programs don't."""
    entity = AE(calling)
    entity.add_requested_context(CT, EXPLICIT)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    return association


def port_of(platform: Platform) -> int:
    return int(platform.env["DIMSE_PORT"])
