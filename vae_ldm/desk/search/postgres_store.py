"""An index in PostgreSQL with pgvector, which any number of desks read and write at once.

One table an index, and one table that says what each of them is. Values are always bound or copied, never part of a
statement; the name of a table is one of our own making.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_ldm.desk.search.address import Address, parse_address
from vae_ldm.desk.search.store import KIND, IndexedPhoto, IndexFacts, Match
from vae_ldm.errors import DataError, RunError, VaeLdmError, first_line
from vae_ldm.latent_space.features import FeatureSpace

HNSW_ABOVE = 10_000
"""Photos up to which a query compares with all of them."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FIELDS = tuple(IndexedPhoto.__dataclass_fields__)
# Two desks that begin at the same moment would both make the tables: the first one to hold this number does.
_LOCK = 0x7661655F6C646D
_CATALOGUE = (
    "CREATE TABLE IF NOT EXISTS vae_ldm_indexes "
    "(name text PRIMARY KEY, facts jsonb NOT NULL, space bytea NOT NULL, created timestamptz NOT NULL DEFAULT now())"
)


class PostgresIndex:
    """The index called `name` in the database at `url`; a `PhotoStore`. Writers need not wait for one another."""

    def __init__(self, url: str, name: str) -> None:
        """Raises DataError where there is no such index, VaeLdmError for a bad name, RunError without a server."""
        self._address, self._table = parse_address(url), _table(name)
        self.name = f"{name} in {self._address}"
        self._connection = _connect(self._address)
        with _plainly(self._address, self.name):
            try:
                found = _catalogue_row(self._connection, name)
            except (ValueError, RecursionError) as error:  # JSON that the server keeps and Python does not read
                raise KIND.damaged(self.name, first_line(error)) from None
            if found is None:
                raise DataError(f"{self.name}: no index of this name; make one with vae-ldm index build")
            self._register()
        stored, space = KIND.checked(self.name, found[0]), found[1]
        if not isinstance(space, bytes):
            raise KIND.damaged(self.name, "its feature space is no bytes")
        self.facts = IndexFacts.from_json(self.name, stored)
        if "space" in stored and hashlib.sha256(space).hexdigest() != stored["space"]:
            raise KIND.damaged(self.name, "the digest of its feature space is another")
        try:
            self.space = FeatureSpace.from_tensors(self.facts.kind, load(space))
        except (KeyError, ValueError, SafetensorError) as error:
            raise KIND.damaged(self.name, first_line(error)) from None

    @staticmethod
    def exists(url: str, name: str) -> bool:
        """Whether the database holds an index of this name. Raises VaeLdmError for a name that no index can have."""
        _table(name)
        address = parse_address(url)
        with _plainly(address), _connect(address) as connection:
            return _catalogue_row(connection, name) is not None

    @classmethod
    def create(cls, url: str, name: str, facts: IndexFacts, space: FeatureSpace) -> Self:
        """A new, empty index. Raises VaeLdmError where there is one of this name."""
        from psycopg import sql

        table, address = _table(name), parse_address(url)
        where = f"{name} in {address}"
        with _plainly(address, where), _connect(address) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(_CATALOGUE)
            content = save(space.tensors())
            stored = KIND.with_digest({**asdict(facts), "space": hashlib.sha256(content).hexdigest()})
            row = [name, json.dumps(stored), content]
            statement = "INSERT INTO vae_ldm_indexes (name, facts, space) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
            if connection.execute(statement, row).rowcount == 0:
                raise VaeLdmError(f"{where}: exists already; take another name")
            columns = (
                "id text, path text NOT NULL, label text, caption text, content text, vector vector({dim}) NOT NULL"
            )
            statement = f"CREATE TABLE {{table}} ({columns}, PRIMARY KEY (id, content))"
            connection.execute(sql.SQL(statement).format(table=sql.Identifier(table), dim=sql.Literal(space.dim)))
        return cls(url, name)

    def __len__(self) -> int:
        with _plainly(self._address, self.name):
            return self._run("SELECT count(*) FROM {table}").fetchone()[0]

    advice = None

    def writing(self) -> nullcontext[None]:
        """Around `add`; the server keeps writers apart."""
        return nullcontext()

    def known(self, photos: Collection[IndexedPhoto]) -> set[tuple[str, str]]:
        """Keys of the photos that are in: one of the same content has the same id, or lies at the same path."""
        fields = ("id", "path", "content")
        columns = [[_storable(getattr(photo, field)) for photo in photos] for field in fields]
        statement = (
            "SELECT k.id, k.content FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (id, path, content) "
            "JOIN {table} AS t ON t.content = k.content AND (t.id = k.id OR (t.path = k.path AND k.path <> ''))"
        )
        with _plainly(self._address, self.name):
            return set(self._run(statement, columns).fetchall())

    def add(self, photos: Sequence[IndexedPhoto], vectors: Tensor) -> None:
        """Take in all of the photos with their vectors [N, dim], or none; those that are in stay as they are."""
        with _plainly(self._address, self.name), self._connection.transaction():
            self._run("CREATE TEMPORARY TABLE incoming (LIKE {table}) ON COMMIT DROP")
            cursor = self._connection.cursor()
            with cursor.copy("COPY incoming FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["text"] * len(_FIELDS) + ["vector"])
                for photo, vector in zip(photos, vectors.numpy(), strict=True):
                    copy.write_row([*(_storable(getattr(photo, field)) for field in _FIELDS), vector])
            self._run("INSERT INTO {table} SELECT * FROM incoming ORDER BY id, content ON CONFLICT DO NOTHING")

    def prepare(self) -> None:
        """Have the server build a graph of neighbours (HNSW), once there are many photos."""
        if len(self) <= HNSW_ABOVE:
            return
        with _plainly(self._address, self.name), self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            self._run("CREATE INDEX IF NOT EXISTS {neighbours} ON {table} USING hnsw (vector vector_cosine_ops)")

    def search(self, queries: Tensor, k: int) -> Iterator[list[Match]]:
        """The k photos nearest to each of the unit vectors [Q, dim], the nearest first, all where there are fewer."""
        if not len(self):
            raise DataError(f"{self.name}: holds no photos yet; add some with vae-ldm index add")
        statement = (
            "SELECT id, path, label, caption, content, 1 - (vector <=> %s) FROM {table} ORDER BY vector <=> %s LIMIT %s"
        )
        for query in queries.numpy():
            with _plainly(self._address, self.name), self._connection.transaction():
                # The graph offers no more than ef_search rows, 40 unless it is told; 1000 is the most it takes.
                self._connection.execute(
                    "SELECT set_config('hnsw.ef_search', %s, true)", [str(min(max(100, 2 * k), 1000))]
                )
                rows = self._run(statement, [query, query, k]).fetchall()
            yield sorted(
                (self._match(*row) for row in rows),
                key=lambda match: (-match.similarity, match.photo.key),
            )

    def _match(self, *row: Any) -> Match:
        """A row of the table that `search` has found. Raises DataError where it is not one that `add` has written."""
        photo = dict(zip(_FIELDS, row, strict=False))
        try:
            return KIND.typed(self.name, Match, {"photo": photo, "similarity": row[-1]})
        except TypeError as error:  # a column of a type that JSON has not
            raise KIND.damaged(self.name, first_line(error)) from None

    def _run(self, statement: str, values: Sequence[Any] = ()) -> Any:
        from psycopg import sql

        names = {"table": sql.Identifier(self._table), "neighbours": sql.Identifier(f"{self._table}_hnsw")}
        return self._connection.execute(sql.SQL(statement).format(**names), values)  # type: ignore[arg-type]

    def _register(self) -> None:
        from pgvector.psycopg import register_vector

        register_vector(self._connection)


def _catalogue_row(connection: Any, name: str) -> Any:
    """Facts and feature space of an index; None where there is none of this name."""
    if connection.execute("SELECT to_regclass('vae_ldm_indexes')").fetchone()[0] is None:
        return None
    return connection.execute("SELECT facts, space FROM vae_ldm_indexes WHERE name = %s", [name]).fetchone()


def _table(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise VaeLdmError(
            f"{name!r} is no name for an index in a database: small letters, digits and _, at most 40, a letter first"
        )
    return f"vae_ldm_index_{name}"


def _connect(address: Address) -> Any:
    try:
        import pgvector.psycopg  # noqa: F401
        import psycopg
        from psycopg.conninfo import make_conninfo
    except ImportError:
        raise VaeLdmError("an index in PostgreSQL needs two more packages: pip install 'vae_ldm[postgres]'") from None
    with _plainly(address):
        given = {name: value for name, value in address.parameters.items() if value}
        return psycopg.connect(make_conninfo(**{"connect_timeout": "20", **given}), autocommit=True)


@contextmanager
def _plainly(address: Address, where: str | None = None) -> Iterator[None]:
    """What the server or the way to it has to object, as a RunError of one line that holds no password."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        reason = address.without_password(" ".join(str(error).split())) or type(error).__name__
        raise RunError(f"{where or address}: {reason}") from None


def _storable(text: str | None) -> str | None:
    """PostgreSQL keeps any character but the one numbered 0."""
    return None if text is None else text.replace("\0", "\ufffd")
