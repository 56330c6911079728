"""What `mip up` was told of DIMSE: where to take C-STORE, from whom, and where results go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from medical_image_processing.dimse.nodes import TITLE, Node
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.naming import is_algo_id

T = TypeVar("T")


@dataclass(frozen=True)
class DimseSettings:
    """Checked. ``port`` 0 takes a free one; ``titles`` are called AE titles of algorithms."""

    host: str
    port: int
    nodes: Mapping[str, Node]
    titles: Mapping[str, str] = field(default_factory=dict)
    send_to: str | None = None
    any_address: bool = False


@dataclass(frozen=True)
class DimseOptions:
    """The options as given."""

    port: int | None = None
    host: str | None = None
    nodes: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    send_to: str | None = None
    any_address: bool = False

    def settings(self) -> DimseSettings | None:
        """None where there is no port. InvalidRequest that names the option that is wrong."""
        if self.port is None:
            others = {
                "--dimse-host": self.host,
                "--dimse-node": self.nodes,
                "--dimse-title": self.titles,
                "--dimse-send-to": self.send_to,
                "--dimse-any-address": self.any_address,
            }
            given = [name for name, value in others.items() if value]
            if given:
                raise _wrong(given[0], "it goes with --dimse-port")
            return None
        nodes = _unique("--dimse-node", map(_node, self.nodes))
        if not nodes:
            raise _wrong("--dimse-port", "nobody may send yet; give --dimse-node TITLE=HOST:PORT for each who may")
        if self.send_to is not None and self.send_to not in nodes:
            raise _wrong("--dimse-send-to", f"{self.send_to} is no --dimse-node")
        return DimseSettings(
            self.host or "127.0.0.1",
            self.port,
            nodes,
            _unique("--dimse-title", map(_title, self.titles)),
            self.send_to,
            self.any_address,
        )


def _node(text: str) -> tuple[str, Node]:
    title, _, address = text.partition("=")
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise _wrong("--dimse-node", f"{text}: it is TITLE=HOST:PORT, as ORTHANC=10.0.0.5:4242")
    return _checked("--dimse-node", title), Node(title, host, int(port))


def _title(text: str) -> tuple[str, str]:
    title, equals, algo_id = text.partition("=")
    if not equals or not is_algo_id(algo_id):
        raise _wrong("--dimse-title", f"{text}: it is TITLE=ALGO_ID, as LIVER=processing_1")
    return _checked("--dimse-title", title), algo_id


def _checked(option: str, title: str) -> str:
    if not TITLE.fullmatch(title):
        raise _wrong(option, f"'{title}': an AE title is 1 to 16 letters, digits, dots, hyphens and underscores")
    return title


def _unique(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for title, value in pairs:
        if title in found:
            raise _wrong(option, f"{title} is given twice")
        found[title] = value
    return found


def _wrong(option: str, what: str) -> InvalidRequest:
    return InvalidRequest("DIMSE_OPTIONS", f"{option}: {what}")
