"""What the AWS engine takes from its environment."""

import pytest

from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.errors import PermanentError


def test_what_is_there_is_taken_and_what_is_missing_is_named_on_use() -> None:
    settings = AwsSettings.from_environment(
        {"MIP_JOBS_TABLE": "jobs", "MIP_SUBNETS": "subnet-a, subnet-b", "MIP_TASK_ENV": '{"A": "1"}', "HOME": "/"}
    )
    assert settings.jobs_table == "jobs"
    assert settings.subnets == ("subnet-a", "subnet-b")
    assert settings.task_env == {"A": "1"}
    assert (settings.clients, settings.allow_origins, settings.queue_limit) == ("keys", (), 200_000)
    with pytest.raises(PermanentError, match="SETTING_MISSING: MIP_KEYS_TABLE"):
        _ = settings.keys_table
    assert "HOME" not in settings.values


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MIP_CLIENTS", "anybody"),
        ("MIP_QUEUE_LIMIT", "-1"),
        ("MIP_CAN_STORE", "yes"),
        ("MIP_TASK_ENV", '{"TOKEN": 1}'),
        ("MIP_TASK_ENV", "hush"),
        ("MIP_WS_ENDPOINT", "wss://x"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_at_once_and_not_repeated(variable: str, value: str) -> None:
    with pytest.raises(PermanentError, match=f"SETTING_WRONG: {variable}") as caught:
        AwsSettings.from_environment({variable: value})
    assert value not in str(caught.value)
