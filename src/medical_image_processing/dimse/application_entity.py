"""What our SCP and our SCU have in common."""

from __future__ import annotations

import logging
import threading
import warnings

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from medical_image_processing.dimse import limits

_LOG = logging.getLogger(__name__)

# pynetdicom's own lines quote what a peer's broken message holds (law A3); ours say what an operator needs.
_config.LOG_HANDLER_LEVEL = "none"
for _name in ("pynetdicom", "pydicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"pydicom\.|pynetdicom\.")
# Instances go from the connection to a file, and from a file to the connection, as they are.
_config.STORE_RECV_CHUNKED_DATASET = True
_config.STORE_SEND_CHUNKED_DATASET = True


def create_entity(title: str) -> AE:
    """An application entity within our limits."""
    entity = AE(title)
    entity.maximum_pdu_size = limits.PDU_BYTES
    entity.maximum_associations = limits.ASSOCIATIONS
    entity.acse_timeout = limits.ACSE_TIMEOUT_S
    entity.dimse_timeout = limits.DIMSE_TIMEOUT_S
    entity.network_timeout = limits.NETWORK_TIMEOUT_S
    entity.connection_timeout = limits.CONNECT_TIMEOUT_S
    return entity


def quiet_threads() -> None:
    """Let a thread of pynetdicom that a peer's message breaks say so without the message."""
    usual = threading.excepthook

    def say(died: threading.ExceptHookArgs) -> None:
        if isinstance(died.thread, Association | DULServiceProvider):
            _LOG.warning("a DICOM peer's message ended its association: %s", died.exc_type.__name__)
        else:
            usual(died)

    threading.excepthook = say
