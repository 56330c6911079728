"""Who has sent a request to the SQS or S3 endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medical_image_processing.engines.embedded import sigv4
from medical_image_processing.engines.embedded.aws_error import AwsError, access_denied
from medical_image_processing.engines.embedded.aws_request import AwsRequest
from medical_image_processing.engines.embedded.credentials import Credentials, Principal, allows
from medical_image_processing.engines.embedded.sigv4 import Signature


@dataclass(frozen=True)
class Caller:
    """Somebody whose signature was checked. ``signing_key`` continues the signature into a chunked body."""

    principal: Principal
    access_key_id: str
    signature: Signature
    signing_key: bytes
    is_algorithm: Callable[[str], bool]

    def require(self, action: str, resource: str) -> None:
        """AwsError ``AccessDenied`` unless the caller may do ``action`` to ``resource``."""
        if not allows(self.principal, action, resource, is_algorithm=self.is_algorithm):
            raise access_denied(action)


class Authenticator:
    """Checks signatures against the known credentials."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float]) -> None:
        self._credentials = credentials
        self._clock = clock

    def authenticate(self, request: AwsRequest, service: str, payload_hash: Callable[[Signature], str]) -> Caller:
        """Whose request it is. AwsError in the words that ``service`` uses."""
        signed = request.signed
        signature = sigv4.parse(signed)
        if signature is None:
            if service == "s3":
                raise AwsError("AccessDenied", "the request is not signed", status=403)
            raise AwsError("MissingAuthenticationToken", "the request is not signed", status=403)
        credential = self._credentials.find(signature.access_key_id)
        if credential is None:
            code = "InvalidAccessKeyId" if service == "s3" else "InvalidClientTokenId"
            raise AwsError(code, "the platform does not know this access key id, or no longer", status=403)
        if signature.service != service:
            raise AwsError("SignatureDoesNotMatch", f"the request is not signed for '{service}'", status=403)
        sigv4.check_time(signature, self._clock())
        key = sigv4.check(signature, signed, credential.secret_access_key, payload_hash(signature))
        known = self._credentials.is_algorithm
        return Caller(credential.principal, credential.access_key_id, signature, key, known)
