"""Addresses of databases: taken apart as PostgreSQL does it, and never shown with their password."""

import pytest

from vae_ldm.desk.search.address import parse_address
from vae_ldm.errors import VaeLdmError


@pytest.mark.parametrize(
    ("url", "shown", "parameters"),
    [
        ("postgresql://desk@db.example/claims", "postgresql://desk@db.example/claims",
         {"user": "desk", "host": "db.example", "dbname": "claims"}),
        ("postgres://anna:S3%2Fcr%40t@[::1]:5432/x?sslmode=require", "postgresql://anna@[::1]:5432/x",
         {"user": "anna", "password": "S3/cr@t", "host": "::1", "port": "5432", "dbname": "x", "sslmode": "require"}),
        ("postgresql://u:@/x?host=/run/pg", "postgresql://u@/x", {"user": "u", "host": "/run/pg", "dbname": "x"}),
        ("postgresql://a:1,b:2/x", "postgresql://a:1,b:2/x", {"host": "a,b", "port": "1,2", "dbname": "x"}),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart_and_shown_without_its_password(url, shown, parameters):
    address = parse_address(url)
    assert {name: value for name, value in address.parameters.items() if value} == parameters
    assert str(address) == shown
    assert "S3" not in repr(address)
    assert address.without_password("no entry for S3/cr@t") != "no entry for S3/cr@t" or "password" not in parameters


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3cr%et@127.0.0.1:1/db", "postgresql://u:S3cr et@127.0.0.1:1/db",
        "postgresql://u:12/S3cr@127.0.0.1:1/db", "postgresql://u:S3cret@[::1/db", "postgresql://u:S3cret@h:port/db",
        "postgresql://u:S3?cret@h/db", "postgresql://u:S3#cret@h/db", "postgresql://u:S3@cret@h/db",
        "postgresql://u:S3cret", "postgresql://u x:S3cret@h/db", "postgresql://u@h/db?password=S3 cret",
        "host=h password=S3cret", "S3cret",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_one_line_without_the_password(url):
    with pytest.raises(VaeLdmError) as caught:
        parse_address(url)
    assert "S3" not in str(caught.value)
    assert "\n" not in str(caught.value)
