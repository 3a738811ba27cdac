"""A certificate and its key, checked before a model is loaded."""

from __future__ import annotations

import ssl
from pathlib import Path

from gemlet.errors import ConfigError, InvalidRequestError


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """ConfigError for files that cannot be used, which says which one and why.

    InvalidRequestError where only one of them is given.
    """
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise InvalidRequestError("--tls-cert and --tls-key are needed together")
    for flag, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{flag} {path}: {error.strerror or error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_none)
    except (ssl.SSLError, ValueError) as error:
        raise _unusable(certificate, key, error) from error


def _none() -> str:
    """Instead of asking at the terminal."""
    return ""


def _unusable(certificate: Path, key: Path, error: Exception) -> ConfigError:
    if getattr(error, "reason", None) in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        problem = f"--tls-key {key}: is not the key of the certificate {certificate}"
        return ConfigError(problem, hint="both come from the same request to a certificate authority")
    if b"ENCRYPTED" in key.read_bytes():
        hint = "write it without a password, readable for its owner alone: openssl pkey -in KEY -out NEW"
        return ConfigError(f"--tls-key {key}: is kept under a password", hint=hint)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        problem = f"--tls-cert {certificate}: holds no certificate in PEM form"
    else:
        problem = f"--tls-key {key}: holds no private key in PEM form"
    return ConfigError(problem, hint="PEM files have lines such as -----BEGIN CERTIFICATE-----")
