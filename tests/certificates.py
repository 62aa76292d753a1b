"""Certificates for tests: an authority of the test's own, and what it signs. Made by the openssl program."""

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A certificate authority with its files in a directory; skips the test where there is no openssl."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.crt"
        """What those who trust this authority are given."""
        self._request(name, "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign")

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for loopback, good for servers and clients, and its key."""
        issuer = ("-CA", self.certificate, "-CAkey", self._directory / f"{self._name}.key")
        addresses = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        usage = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=digitalSignature")
        return self._request(name, *issuer, *addresses, *usage)

    def _request(self, name: str, *options: str | Path) -> tuple[Path, Path]:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        command: list[str | Path] = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", certificate, "-keyout", key]
        subprocess.run([*command, *options], check=True, capture_output=True)
        return certificate, key
