"""An algorithm for people: its record, its offer to clients, and how it does."""

from __future__ import annotations

import shlex
from typing import Any

from medical_image_processing.entrypoints import cli_output as output


def workers_of(record: dict[str, Any]) -> str:
    """How many it is to have: a number, or from the fewest to the most."""
    desired, least, most = (record.get(name) for name in ("desired_count", "min_count", "max_count"))
    if not desired or (least is None and most is None):
        return str(desired)
    return f"{desired if least is None else least} to {max(desired, least or 0) if most is None else most}"


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """One algorithm, as its admin sees it."""
    if as_json:
        output.print_json(record)
        return
    resources = record["resource_status"]
    output.print_fields(
        [
            ("algorithm", record["algorithm_id"]),
            ("is for", record.get("description")),
            ("status", output.state(record["status"])),
            ("reason", record["status_reason"]),
            ("image", record["image_uri"]),
            ("pinned to", resources["image_digest"]),
            ("command", shlex.join(record["command"])),
            ("size", f"{record['cpu']} CPU units, {record['memory']} MiB"),
            ("workers", workers_of(record)),
            ("env", "\n".join(f"{name}={value}" for name, value in record["env"].items())),
            ("outputs", ", ".join(record["outputs"])),
            ("results", "go back into the PACS" if record["store_results"] else None),
            ("images", "de-identified" if record.get("deidentify") else None),
            ("parameters", ", ".join((record.get("parameters") or {}).get("properties", {}))),
            ("queue", resources["queue_url"]),
            ("task", resources["task_definition"]),
            ("service", resources["service"]),
            ("revision", str(record["revision"])),
            ("changed", output.ago(record["updated_at"])),
        ]
    )


def describe_offer(offer: dict[str, Any]) -> str:
    """An algorithm as its clients see it: its state, and below that what it is for and takes."""
    words = [offer["status"], *([] if offer["takes_jobs"] else ["takes no jobs"])]
    words += [output.count(offer["queue_depth"], "job"), output.count(offer["workers"], "worker")]
    properties = (offer["parameters"] or {}).get("properties", {})
    lines = [
        f"{', '.join(words)}, makes {', '.join(offer['outputs'])}",
        offer["description"],
        f"parameters: {', '.join(properties)}" if properties else "",
    ]
    return "\n".join(line for line in lines if line)


def print_statistics(found: dict[str, Any], hours: int) -> None:
    """How an algorithm did in the last ``hours``: sums, then a row for each bucket in which something ended."""
    ends = {how: sum(bucket[how] for bucket in found["buckets"]) for how in ("succeeded", "failed", "cancelled")}
    told = ", ".join(f"{count} {how}" for how, count in ends.items() if count) or "nothing"
    waits = "" if found["oldest_wait_s"] is None else f", the next for {output.seconds(found['oldest_wait_s'])}"
    is_cut = output.parse_time(found["complete_since"]) > output.parse_time(found["buckets"][0]["at"])
    median, p95 = _durations(found["durations"])
    output.print_fields(
        [
            ("algorithm", found["algo_id"]),
            ("workers", str(found["workers"])),
            ("waiting", output.count(found["waiting"], "job") + waits),
            ("running", output.count(found["running"], "job")),
            ("ended", f"{told} in {hours} h"),
            ("took", f"{median} at the median, 95 % at most {p95}" if found["durations"] else None),
            ("complete", f"since {output.clock(found['complete_since'])}" if is_cut else None),
        ]
    )
    rows = [
        (output.clock(bucket["at"]), *(str(bucket[how] or "") for how in ends), *_durations(bucket["durations"]))
        for bucket in found["buckets"]
        if any(bucket[how] for how in ends)
    ]
    if rows:
        headings = (f"{found['bucket_s'] // 60} min from", *ends, "median", "95 %")
        output.print_table(headings, rows, right=headings[1:])


def _durations(durations: dict[str, Any] | None) -> tuple[str, str]:
    """Median and 95th percentile, in words."""
    return (output.seconds(durations["median_s"]), output.seconds(durations["p95_s"])) if durations else ("", "")
