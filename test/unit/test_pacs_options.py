"""What `mip up` is told of its PACS: files read once, wrong options named, nothing of a secret shown."""

from __future__ import annotations

import base64
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medical_image_processing.entrypoints.pacs_options import PacsOptions
from medical_image_processing.errors import InvalidRequest

HTTP, HTTPS = "http://127.0.0.1:9/dicom-web", "https://pacs.example/dicom-web"
SECRET = "the-secret"


def secret_file(tmp_path: Path, content: str = f"{SECRET}\n") -> Path:
    file = tmp_path / "file"
    file.write_text(content)
    return file


def test_a_folder_is_no_server() -> None:
    assert PacsOptions("/a/folder").server() is None
    assert PacsOptions().server() is None


def test_user_and_password_are_basic_authentication(tmp_path: Path) -> None:
    server = PacsOptions(HTTP + "/", user="mip", password_file=secret_file(tmp_path)).server()
    assert server is not None and server.base == HTTP
    assert server.authorization == "Basic " + base64.b64encode(f"mip:{SECRET}".encode()).decode()
    assert SECRET not in repr(server) and str(server.authorization) not in repr(server)


def test_a_token_is_bearer_authentication(tmp_path: Path) -> None:
    server = PacsOptions(HTTPS, token_file=secret_file(tmp_path)).server()
    assert server is not None and server.authorization == f"Bearer {SECRET}"


def test_a_client_certificate_is_loaded(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=mip", "-days", "1"]
    subprocess.run(command, check=True, capture_output=True)
    given = PacsOptions(HTTPS, client_certificate=certificate, client_key=key, ca_file=certificate)
    server = given.server()
    assert server is not None and isinstance(server.tls, ssl.SSLContext)
    assert len(server.tls.get_ca_certs()) == 1
    with pytest.raises(InvalidRequest, match="--pacs-client-certificate"):
        replace(given, client_key=secret_file(tmp_path)).server()


def test_a_secret_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = secret_file(tmp_path)
    for mode, warns in ((0o600, False), (0o640, True), (0o604, True)):
        file.chmod(mode)
        caplog.clear()
        PacsOptions(HTTP, user="mip", password_file=file).server()
        assert ("chmod 600" in caplog.text) is warns and SECRET not in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pacs": HTTP, "user": "a"}, "--pacs-password-file"),
        ({"pacs": HTTP, "user": "a:b", "password_file": "FILE"}, "--pacs-user"),
        ({"pacs": HTTP, "user": "a", "password_file": "MISSING"}, "--pacs-password-file"),
        ({"pacs": HTTP, "user": "a", "token_file": "FILE"}, "--pacs-token-file"),
        ({"pacs": HTTP, "token_file": "TWO LINES"}, "--pacs-token-file"),
        ({"pacs": HTTP, "token_file": "EMPTY"}, "--pacs-token-file"),
        ({"pacs": f"http://a:{SECRET}@127.0.0.1/dicom-web"}, "--pacs-user"),
        ({"pacs": "ftp://127.0.0.1/dicom-web"}, "neither a folder nor an address"),
        ({"pacs": "http://"}, "neither a folder nor an address"),
        ({"pacs": "http://[1/dicom-web"}, "no address"),
        ({"pacs": f"{HTTP}?key={SECRET}"}, "no '\\?'"),
        ({"pacs": HTTP, "ca_file": "FILE"}, "https"),
        ({"pacs": HTTPS, "ca_file": "FILE"}, "--pacs-ca-file"),
        ({"pacs": HTTPS, "client_key": "FILE"}, "--pacs-client-certificate"),
        ({"pacs": "/tmp", "user": "a"}, "--pacs-user is for a DICOMweb server"),
        ({"token_file": "FILE"}, "--pacs-token-file is for a DICOMweb server"),
    ],
)
def test_a_wrong_option_is_named_and_no_secret_told(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    contents = {"FILE": SECRET, "TWO LINES": f"{SECRET}\n{SECRET}", "EMPTY": "\n"}
    for name, value in options.items():
        if value in contents:
            options = {**options, name: secret_file(tmp_path, contents[value])}
        elif value == "MISSING":
            options = {**options, name: tmp_path / "missing"}
    with pytest.raises(InvalidRequest, match=named) as caught:
        PacsOptions(**options).server()
    assert caught.value.code == "PACS_OPTIONS" and SECRET not in str(caught.value)
