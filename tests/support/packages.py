"""Code packages: zip files made in memory from source files, also the kinds that no decent tool makes."""

import base64
import hashlib
import io
import os
import stat
import zipfile
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def fixture(name: str) -> str:
    """The text of a function source under `tests/fixtures`."""
    return (FIXTURES / name).read_text(encoding="utf-8")


def zip_of(files: dict, executable: tuple = (), compress: bool = True) -> bytes:
    """A zip of `{name: str or bytes}`; names in `executable` get the x bits."""
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            mode = 0o755 if name in executable else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            entry.compress_type = method
            archive.writestr(entry, content)
    return buffer.getvalue()


def zip_fixture(name: str, as_name: str | None = None, **extra) -> bytes:
    """A zip of one fixture, perhaps under another name, and of `extra` files given as `name=text`."""
    target = as_name or name
    return zip_of({target: fixture(name), **extra}, executable=("bootstrap",))


def hostile_package() -> bytes:
    """The function that tries everything it should not."""
    return zip_of({name: fixture(name) for name in ("hostile.py", "escapes.py")})


def zip_with_symlink(link: str, target: str) -> bytes:
    """A zip that holds `app.py` and a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", "def handler(event, context): return open('/var/task/%s').read()" % link)
        entry = zipfile.ZipInfo(link)
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)
    return buffer.getvalue()


def zip_with_duplicates() -> bytes:
    """A zip that holds `app.py` twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", "one = 1")
        archive.writestr("bpp.py", "two = 2")
    return buffer.getvalue().replace(b"bpp.py", b"app.py")


def zip_of_random(size_bytes: int, **files) -> bytes:
    """A zip whose one big entry cannot be compressed."""
    return zip_of({"blob.bin": os.urandom(size_bytes), **files}, compress=False)


def code_sha256(package: bytes) -> str:
    """What the API calls CodeSha256."""
    return base64.b64encode(hashlib.sha256(package).digest()).decode()


def digest_hex(package: bytes) -> str:
    """The name of the package in the data folder."""
    return hashlib.sha256(package).hexdigest()
