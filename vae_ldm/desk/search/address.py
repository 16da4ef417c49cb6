"""The address of a PostgreSQL database, taken apart here, so that no message of a library ever holds its password."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from vae_ldm.errors import VaeLdmError

_SCHEME = re.compile(r"postgres(ql)?://", re.IGNORECASE)
_PLAIN = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
"""What may stand in a part of an address; every other character is written as %XX (RFC 3986)."""
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(?P<port>\d*))?")
_OPTION = re.compile(r"(?P<name>[a-z_]+)=(?P<value>(?:[^\s%]|%[0-9A-Fa-f]{2})*)")
_ESCAPED = "any character but letters, digits and -._~ is written as %XX: / as %2F, @ as %40, a space as %20, % as %25"
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


@dataclass(frozen=True)
class Address:
    """Where a database is, and who asks. Its text is what messages show: no password, and no options."""

    parameters: dict[str, str] = field(repr=False)
    """Parameters of libpq by name; empty ones are not passed."""
    shown: str

    def __str__(self) -> str:
        return self.shown

    def without_password(self, text: str) -> str:
        """The text with asterisks where the password stands in it."""
        password = self.parameters.get("password")
        return text.replace(password, "***") if password else text


def parse_address(url: str) -> Address:
    """The address that a text spells.

    Raises VaeLdmError, which holds neither password nor anything that could be one, where the text is no address.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise VaeLdmError(f"an address of a database is {_FORM}")
    # The last @ ends user and password, so an @ in a password hides more of the address and never less.
    userinfo, _, rest = url[scheme.end() :].rpartition("@")
    place, _, options = rest.partition("?")
    hosts, _, database = place.partition("/")
    user, _, password = userinfo.partition(":")
    is_readable = _PLAIN.fullmatch(user) and all(_HOST.fullmatch(host) for host in hosts.split(","))
    if not is_readable or not _PLAIN.fullmatch(database):
        # Of an address without its @ the password would stand among the hosts, so nothing of it is shown.
        raise VaeLdmError(f"the address of the database cannot be read; it is {_FORM}, and {_ESCAPED}")
    shown = f"postgresql://{user + '@' if userinfo else ''}{hosts}{'/' + database if database else ''}"
    if not _PLAIN.fullmatch(password):
        raise VaeLdmError(f"{shown}: its password cannot be read; {_ESCAPED}")
    parameters = {"user": unquote(user), "password": unquote(password), "dbname": unquote(database)}
    return Address(parameters | _places(hosts) | _options(options, shown), shown)


def _places(hosts: str) -> dict[str, str]:
    """Host and port of one server or of several."""
    found = [match for match in map(_HOST.fullmatch, hosts.split(",")) if match]
    ports = [match["port"] or "" for match in found]
    names = ",".join(unquote(match["host"]).strip("[]") for match in found)
    return {"host": names, "port": ",".join(ports) if any(ports) else ""}


def _options(options: str, shown: str) -> dict[str, str]:
    """Options of libpq by name, such as sslmode. Raises VaeLdmError where they cannot be read."""
    found = {}
    for option in filter(None, options.split("&")):
        if not (match := _OPTION.fullmatch(option)):
            raise VaeLdmError(f"{shown}: what follows the ? cannot be read; options are NAME=VALUE with & between them")
        found[match["name"]] = unquote(match["value"])
    return found
