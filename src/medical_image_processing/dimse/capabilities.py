"""What our application entity can do, as data: for its presentation contexts, and for docs/conformance.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts

from medical_image_processing.dicom.pixels import readable_syntaxes
from medical_image_processing.dimse import limits

VERIFICATION = "1.2.840.10008.1.1"
_ALSO_IMAGES = frozenset({"EnhancedUSVolumeStorage", "ParametricMapStorage", "RTDoseStorage"})
_RESULTS = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.88.34",
)
"""What our worker makes: Secondary Capture and its multi-frame kinds, Segmentation, Comprehensive 3D SR."""


@dataclass(frozen=True)
class Capability:
    """A SOP class, the transfer syntaxes of its presentation contexts, and our role: ``SCP`` or ``SCU``."""

    sop_class_uid: str
    sop_class: str
    transfer_syntax_uids: tuple[str, ...]
    role: str
    makes_jobs: bool = False
    """Whether a received series of these gets a job: it has images."""


@cache
def capabilities() -> tuple[Capability, ...]:
    """All of them. What a container makes goes out as it is, in whatever storage class and syntax."""
    plain = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian))
    verification = Capability(VERIFICATION, UID(VERIFICATION).name, plain, "SCP")
    received = (
        Capability(uid, UID(uid).name, readable_syntaxes(), "SCP", makes_jobs=is_image(uid))
        for uid in storage_classes()
    )
    sent = (Capability(uid, UID(uid).name, (str(ExplicitVRLittleEndian),), "SCU") for uid in _RESULTS)
    return (verification, *received, *sent)


@cache
def storage_classes() -> tuple[str, ...]:
    """SOP classes of the Storage Service Class (PS3.4, annex B.5) that we receive."""
    return tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


def is_image(sop_class_uid: str) -> bool:
    """Whether instances of the class are images, so that there is something to process."""
    keyword = UID(sop_class_uid).keyword
    return "Image" in keyword or keyword in _ALSO_IMAGES


def entity_limits() -> dict[str, float]:
    """The application entity's limits by name: bytes, seconds (``_s``) and counts."""
    return {
        "maximum_pdu_bytes": limits.PDU_BYTES,
        "associations": limits.ASSOCIATIONS,
        "connections": limits.CONNECTIONS,
        "instance_bytes": limits.INSTANCE_BYTES,
        "other_message_bytes": limits.OTHER_MESSAGE_BYTES,
        "free_disk_bytes": limits.FREE_DISK_BYTES,
        "acse_timeout_s": limits.ACSE_TIMEOUT_S,
        "dimse_timeout_s": limits.DIMSE_TIMEOUT_S,
        "network_timeout_s": limits.NETWORK_TIMEOUT_S,
        "pdu_timeout_s": limits.PDU_TIMEOUT_S,
        "connect_timeout_s": limits.CONNECT_TIMEOUT_S,
        "store_timeout_s": limits.STORE_TIMEOUT_S,
    }
