"""The worker's signatures are botocore's."""

from __future__ import annotations

import hashlib

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_image_processing.errors import PermanentError
from medical_image_processing.worker.sigv4 import AwsCredentials, Signer, load_credentials

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
NAMES = st.from_regex(r"x-[a-z]{1,8}(-[a-z]{1,8})?", fullmatch=True)
MOMENT = 1_795_000_000.0


def authorization_of_botocore(
    kind: type[botocore.auth.SigV4Auth],
    credentials: AwsCredentials,
    service: str,
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
) -> str:
    signer = kind(botocore.credentials.Credentials(*credentials), service, "eu-south-1")
    request = botocore.awsrequest.AWSRequest(method, url, headers=headers, data=body)
    request.context["timestamp"] = "20261118T110640Z"
    request.headers["X-Amz-Date"] = "20261118T110640Z"
    if credentials.token:
        request.headers["X-Amz-Security-Token"] = credentials.token
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    names = signer.signed_headers(signer.headers_to_sign(request))
    return f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={names}, Signature={signature}"


def signer_of(credentials: AwsCredentials, service: str) -> Signer:
    return Signer(lambda: credentials, region="eu-south-1", service=service, clock=lambda: MOMENT)


@given(
    credentials=st.builds(AwsCredentials, TEXT, TEXT, st.none() | TEXT),
    headers=st.dictionaries(NAMES, TEXT, max_size=4),
    body=st.binary(max_size=100),
)
def test_sqs_requests_are_signed_as_botocore_signs_them(
    credentials: AwsCredentials, headers: dict[str, str], body: bytes
) -> None:
    signed = signer_of(credentials, "sqs").sign(
        "POST", "127.0.0.1:4566", "/", headers, hashlib.sha256(body).hexdigest()
    )
    expected = authorization_of_botocore(
        botocore.auth.SigV4Auth, credentials, "sqs", "POST", "http://127.0.0.1:4566/", headers, body
    )
    assert signed["authorization"] == expected
    assert "host" not in signed
    assert signed.get("x-amz-security-token") == credentials.token


@given(key=st.from_regex(r"[A-Za-z0-9._/~-]{1,60}", fullmatch=True), body=st.binary(max_size=100))
def test_s3_requests_are_signed_as_botocore_signs_them(key: str, body: bytes) -> None:
    credentials = AwsCredentials("AKID", "secret", None)
    payload_hash = hashlib.sha256(body).hexdigest()
    headers = {"x-amz-content-sha256": payload_hash}
    signed = signer_of(credentials, "s3").sign("PUT", "b.s3.amazonaws.com", f"/{key}", headers, payload_hash)
    expected = authorization_of_botocore(
        botocore.auth.S3SigV4Auth,
        credentials,
        "s3",
        "PUT",
        f"https://b.s3.amazonaws.com/{key}",
        headers,
        body,
    )
    assert signed["authorization"] == expected


def test_new_credentials_and_a_new_day_change_the_signature() -> None:
    current = [AwsCredentials("A", "one", None)]
    moment = [MOMENT]
    signer = Signer(lambda: current[0], region="r", service="sqs", clock=lambda: moment[0])
    seen = set()
    for secret, at in (("one", MOMENT), ("two", MOMENT), ("two", MOMENT + 86400)):
        current[0], moment[0] = AwsCredentials("A", secret, None), at
        seen.add(signer.sign("POST", "h", "/", {}, "0" * 64)["authorization"].rpartition("=")[2])
    assert len(seen) == 3


def test_credentials_come_from_the_environment_first() -> None:
    env = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "T"}
    assert load_credentials(env)() == AwsCredentials("A", "S", "T")


def test_without_any_credentials_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = str(tmp_path_factory.mktemp("aws") / "none")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", empty)
    monkeypatch.setenv("AWS_CONFIG_FILE", empty)
    with pytest.raises(PermanentError, match="NO_CREDENTIALS: no AWS credentials: give the task a role"):
        load_credentials({})


def test_other_sources_of_the_chain_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("aws") / "credentials"
    file.write_text("[default]\naws_access_key_id = FILE\naws_secret_access_key = S\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert load_credentials({})().access_key == "FILE"
