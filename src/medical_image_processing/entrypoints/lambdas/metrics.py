"""Metrics as log lines (CloudWatch, "Embedded metric format"): no call, no wait, nothing lost when one fails.

None has a dimension: a metric for each algorithm would cost more than the algorithm does. What a number is made
of stands beside it in the line.
"""

from __future__ import annotations

import json
import sys
import time

from medical_image_processing.naming import METRICS_NAMESPACE

PROVISIONING_FAILURES = "ProvisioningFailures"
PUSH_FAILURES = "PushFailures"
DEAD_LETTERS = "DeadLetters"
UNKNOWN_SENDERS = "UnknownSenders"
OLDEST_JOB_AGE = "OldestJobAge"


def emit(name: str, value: float, unit: str = "Count", **beside: str | int | float) -> None:
    """One value of a metric. ``beside`` goes into the line only; no patient data, no client (law A3)."""
    definition = {"Namespace": METRICS_NAMESPACE, "Dimensions": [[]], "Metrics": [{"Name": name, "Unit": unit}]}
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [definition]}
    # In one write, so that lines of threads don't mix.
    sys.stdout.write(json.dumps({"_aws": metadata, **beside, name: value}) + "\n")
    sys.stdout.flush()
