"""`gemlet serve` over https, and what is said of files that cannot be used for it.

The keys below are test keys: they are public, and protect nothing.
"""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import httpx
import pytest

from gemlet.cli.main import main
from gemlet.errors import ConfigError, InvalidRequestError
from gemlet.serve.tls import check_tls
from tests.cli.server_process import MESSAGES, served

# For localhost and 127.0.0.1, signed by its own key, valid for a hundred years.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBtjCCAVygAwIBAgIUFzyMVypTE0vfXRPLpqjV0ML7suUwCgYIKoZIzj0EAwIw
IzEhMB8GA1UEAwwYZ2VtbGV0IHRlc3QsIG5vdCBmb3IgdXNlMCAXDTI2MTEyNDE5
NDcxNloYDzIxMjYxMDMxMTk0NzE2WjAjMSEwHwYDVQQDDBhnZW1sZXQgdGVzdCwg
bm90IGZvciB1c2UwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATZwJ79vj/VWI1R
KuT5m3c6mlsyRYo73kmH31IBQbrr/ODzTGfQfDPDCR1U6lZRLAxYhmvtMOc/2rpP
h+5/lJrUo2wwajAdBgNVHQ4EFgQUhOqlj47Mwy7K1Uf2M1Ui5FFTV2kwHwYDVR0j
BBgwFoAUhOqlj47Mwy7K1Uf2M1Ui5FFTV2kwGgYDVR0RBBMwEYIJbG9jYWxob3N0
hwR/AAABMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSAAwRQIhANK+UtLW+xMd
4FovlbSPqU2Wx2pm833GnoZ6W+O+m4nWAiBeQsiXxiZ+ktffEkMN1vN9552iKZxz
QvEUR8E/SZ46wQ==
-----END CERTIFICATE-----
"""
TEST_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgsnBayi85dvlH4zkI
gjFoUIco9mNnm+A8ayoEVgK4+nChRANCAATZwJ79vj/VWI1RKuT5m3c6mlsyRYo7
3kmH31IBQbrr/ODzTGfQfDPDCR1U6lZRLAxYhmvtMOc/2rpPh+5/lJrU
-----END PRIVATE KEY-----
"""
OTHER_TEST_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7DfpRkOFZuLxDcsg
GDVRsTi7U2DcYlVpreQaMwreBMKhRANCAAT9XYvktd6cCVU9+EGBNN6igsx3f0Kr
EJuDx2lsHVT2DZHQawxU9E32uZla7apPwMRi9mu3Zc5zaikzMAuBD9YA
-----END PRIVATE KEY-----
"""
TEST_KEY_WITH_PASSWORD = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgUH0PsAsPY6wICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEJK8x/m1VQAsW5MCc1D+NAkEgZBD
jg4Da8Frp2y1eyFwbOWEjhrT9b0KHTzFfXEgnv83StvqxL7mTyNKfJQSjlWrPOxk
69ui8gRY3940oiYUvUMJTXsdLb6Ud8iAIzkjJlZN7teTNWxvymc4jGlMTvDRIJ3I
iqZIhhORwMSVkPlpb7Lzr2pcyXbg0ypEQkXDi6o9dUqMCvau9UjQVmDcfIJH9QE=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    texts = {
        "certificate": CERTIFICATE,
        "key": TEST_KEY,
        "other": OTHER_TEST_KEY,
        "locked": TEST_KEY_WITH_PASSWORD,
        "nothing": "no PEM\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in [*texts, "missing"]}


def test_it_serves_over_tls(files: dict[str, Path]) -> None:
    flags = "--tls-cert", str(files["certificate"]), "--tls-key", str(files["key"])
    with served(*flags) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(files["certificate"]))
        with server.http(verify=trusting) as http:
            body = {"model": "one", "messages": MESSAGES, "max_tokens": 2}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200 and answer.json()["choices"]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            server.http().get("/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http") + "/health")
        server.process.send_signal(signal.SIGTERM)
        assert server.ended()[0] == 0


@pytest.mark.parametrize(
    ("certificate", "key", "flag", "problem"),
    [
        ("missing", "key", "--tls-cert", "No such file"),
        ("certificate", "missing", "--tls-key", "No such file"),
        ("nothing", "key", "--tls-cert", "holds no certificate"),
        ("certificate", "nothing", "--tls-key", "holds no private key"),
        ("key", "certificate", "--tls-cert", "holds no certificate"),
        ("certificate", "other", "--tls-key", "is not the key of the certificate"),
        ("certificate", "locked", "--tls-key", "is kept under a password"),
    ],
)
def test_files_that_cannot_be_used(
    files: dict[str, Path], certificate: str, key: str, flag: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_tls(files[certificate], files[key])
    assert caught.value.message.startswith(flag) and problem in caught.value.message


def test_a_folder_is_not_a_certificate(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tls-cert"):
        check_tls(tmp_path, files["key"])


def test_one_alone_is_refused(files: dict[str, Path]) -> None:
    check_tls(None, None)
    for pair in ((files["certificate"], None), (None, files["key"])):
        with pytest.raises(InvalidRequestError, match="needed together"):
            check_tls(*pair)


def test_it_is_said_before_a_model_is_loaded(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*reference: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    flags = ["--tls-cert", str(files["certificate"]), "--tls-key", str(files["other"])]
    assert main(["serve", "--port", "0", *flags], load=load) == 7
    assert "is not the key" in capsys.readouterr().err
