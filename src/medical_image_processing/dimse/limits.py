"""How much of everything a peer gets. The conformance statement quotes these."""

from __future__ import annotations

PDU_BYTES = 131_072
"""Maximum Length that we receive (PS3.8, annex D.1)."""
OTHER_PDU_BYTES = 1_048_576
"""The longest PDU that carries no data; 128 presentation contexts with every syntax are 300 kB."""
ASSOCIATIONS = 10
"""Side by side; one more is rejected."""
CONNECTIONS = 2 * ASSOCIATIONS
"""Also those that have not asked for an association yet; one more is closed."""
INSTANCE_BYTES = 2**31
"""The largest message; our decoders take no object that is larger."""
OTHER_MESSAGE_BYTES = 2 * OTHER_PDU_BYTES
"""The largest message that is no C-STORE request."""
FREE_DISK_BYTES = 512 * 2**20
"""What must stay free; with less, instances are refused as out of resources."""

ACSE_TIMEOUT_S = 30.0
"""For a request or an answer of the association control."""
DIMSE_TIMEOUT_S = 60.0
"""For the answer to a C-STORE of ours."""
NETWORK_TIMEOUT_S = 120.0
"""An association on which nothing comes for so long is aborted."""
PDU_TIMEOUT_S = 60.0
"""From a PDU's first byte to its last."""
CONNECT_TIMEOUT_S = 10.0
"""Until a node has taken our connection."""
STORE_TIMEOUT_S = 90.0
"""For the PACS to take an instance; less than NETWORK_TIMEOUT_S, which goes on meanwhile."""
