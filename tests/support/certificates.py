"""A certificate authority of the tests' own."""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """An authority whose certificate is in `self.ca`, and one server certificate for 127.0.0.1 and localhost that it has
    signed, in `self.cert` and `self.key`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ca, self.cert, self.key = (str(self.folder / f"{name}.pem") for name in ("ca", "cert", "key"))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tidegate tests")])
        ca = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self._write(self.ca, ca.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.serial = self.renew()

    def renew(self) -> int:
        """Signs a new certificate with a new key; its serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        cert = self._builder(name, key).add_extension(x509.SubjectAlternativeName(names), False)
        cert = cert.sign(self._key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self._write(self.key, private)
        self._write(self.cert, cert.public_bytes(pem))
        self.serial = cert.serial_number
        return self.serial

    def _builder(self, name, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=30)
        )

    def _write(self, path: str, content: bytes) -> None:
        """By rename, as those do who renew certificates. Readable for the daemon, who is another user."""
        new = path + ".new"
        Path(new).write_bytes(content)
        os.chmod(new, 0o644)
        os.replace(new, path)
