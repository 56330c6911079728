"""The peers that are known: who may call, and where results can be sent."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}")
"""AE titles that can be configured: of PS3.5's (table 6.2-1) those that can stand in a client_id, too."""


@dataclass(frozen=True)
class Node:
    """A peer: its AE title, and the host and port at which it takes C-STORE."""

    title: str
    host: str
    port: int

    def is_at(self, address: str) -> bool:
        """Whether the peer at this IP address can be it. OSError when its host's name can't be looked up."""
        found = {info[4][0] for info in socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)}
        return _plain(address) in {_plain(str(one)) for one in found}


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
