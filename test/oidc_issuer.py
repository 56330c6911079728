"""A small OpenID Connect issuer on the loopback interface: discovery document, keys, and tokens it signs."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "mip-clients"
_ALGORITHM = {"rsa": "RS256", "ec": "ES256", "p384": "ES384"}


class Issuer:
    """Runs while it is open. ``named`` is the issuer its document names, where that is another."""

    def __init__(
        self, *, port: int = 0, keys: dict[str, Any] | None = None, named: str | None = None, delay_s: float = 0
    ) -> None:
        self.asked: list[str] = []
        self.keys: dict[str, Any] = keys or {
            "rsa": rsa.generate_private_key(65537, 2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "p384": ec.generate_private_key(ec.SECP384R1()),
        }
        self._stop = threading.Event()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                issuer._stop.wait(delay_s)
                body = json.dumps(issuer._document(self.path, named)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a token says; None leaves a claim out, and times are seconds from now."""
        now = time.time()
        claims = {"iss": self.address, "aud": AUDIENCE, "sub": "ana", "exp": 300, "iat": 0, **changes}
        for name in {"exp", "iat", "nbf"} & claims.keys():
            if claims[name] is not None:
                claims[name] = int(now + claims[name])
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        kid: str = "rsa",
        *,
        key: Any = None,
        header_kid: str | None = None,
        algorithm: str | None = None,
        **changes: Any,
    ) -> str:
        """A signed token; ``key`` is another's, to be found out."""
        return jwt.encode(
            self.claims(**changes),
            key or self.keys[kid],
            algorithm=algorithm or _ALGORITHM[kid],
            headers={"kid": header_kid or kid},
        )

    def _document(self, path: str, named: str | None) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": named or self.address, "jwks_uri": f"{self.address}/keys"}
        kinds = {"rsa": RSAAlgorithm, "ec": ECAlgorithm, "p384": ECAlgorithm}
        keys = {kid: kinds[kid].to_jwk(key.public_key(), as_dict=True) for kid, key in self.keys.items()}
        return {"keys": [{**key, "kid": kid, "use": "sig"} for kid, key in keys.items()]}
