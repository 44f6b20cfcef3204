"""What is shown of a URL: never a password, a token or another secret."""

import pytest
from sqlalchemy.engine import make_url

from jobs.errors import SourceError
from jobs.redaction import redacted
from jobs.sources import open_source


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://me:ge@heim@host/0?password=geheim", "redis://me:***@host/0?password=***"),
        (
            "rediss://host/0?ssl_cert_reqs=none&ssl_password=geheim",
            "rediss://host/0?ssl_cert_reqs=none&ssl_password=***",
        ),
        ("s3://key:geheim@bucket/photos", "s3://key:***@bucket/photos"),
        ("s3://bucket/photos?X-Amz-Signature=geheim&versionId=1", "s3://bucket/photos?X-Amz-Signature=***&versionId=1"),
        ("abfs://photos@account/a?sv=geheim#token=geheim", "abfs://photos@account/a?sv=***#token=***"),
        ("s3://bucket/a=b/c", "s3://bucket/a=b/c"),
        ("/photos/what?a=b#c=d", "/photos/what?a=b#c=d"),
        ("memory://", "memory://"),
    ],
)
def test_secrets_are_hidden(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_a_database_url() -> None:
    url = make_url("postgresql://me:geheim@host/cars?sslmode=require&sslpassword=geheim&password=geheim")
    assert "geheim" not in redacted(url)
    assert "sslmode=require" in redacted(url)


@pytest.mark.parametrize(
    "source", ["ftp://h/x?key=geheim", "s3://b/../x?key=geheim", "a::s3://b?key=geheim", "s3://b/x?key=geheim"]
)
def test_an_error_about_a_source_hides_them(source: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(source, roots=("s3://c?secret=geheim",), max_file_bytes=1)
    assert "geheim" not in str(caught.value)
