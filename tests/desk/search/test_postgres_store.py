"""The index in a real PostgreSQL with pgvector, started for these tests."""

import dataclasses
import hashlib
import json
import threading

import pytest
import torch
from safetensors.torch import save

from tests.postgres import postgres_server
from vae_ldm.desk.search import postgres_store
from vae_ldm.desk.search.postgres_store import PostgresIndex
from vae_ldm.desk.search.store import KIND, IndexedPhoto
from vae_ldm.errors import DataError, RunError, VaeLdmError


@pytest.fixture(scope="module")
def url():
    with postgres_server() as address:
        yield address


@pytest.fixture
def store(url, request, facts, space):
    name = f"t{abs(hash(request.node.name))}"
    return PostgresIndex.create(url, name[:30], facts, space)


def ids(store, queries, k=5):
    return [[match.photo.id for match in matches] for matches in store.search(queries, k)]


def test_what_one_desk_adds_another_finds_whatever_a_caption_says(store, url, photos, vectors, facts, space):
    store.add(photos, vectors)
    other = PostgresIndex(url, store.name.split()[0])
    assert (other.facts, len(other)) == (facts, 60)
    assert torch.equal(other.space({"latents": vectors}), space({"latents": vectors}))
    for number, matches in enumerate(other.search(vectors, 3)):
        caption = photos[number].caption
        stored = None if caption is None else caption.replace("\0", "\ufffd")
        assert matches[0].photo == dataclasses.replace(photos[number], caption=stored)
        assert matches[0].similarity == pytest.approx(1, abs=1e-5)
        assert matches[0].similarity >= matches[1].similarity >= matches[2].similarity
    assert PostgresIndex.exists(url, store.name.split()[0])  # no caption has dropped a table


def test_photos_are_in_once_by_name_and_content(store, photos, vectors):
    store.add(photos, vectors)
    store.add(photos[:10], vectors[:10])
    assert len(store) == 60
    asked = [*photos[:4], dataclasses.replace(photos[0], content="other"), IndexedPhoto("a'b", "", None, None, "c")]
    assert store.known(asked) == {photo.key for photo in photos[:4]}
    from_above = dataclasses.replace(photos[5], id=f"photos/{photos[5].id}")
    assert store.known([from_above, dataclasses.replace(from_above, path="/elsewhere.png")]) == {from_above.key}
    store.add([dataclasses.replace(photos[0], content="changed")], vectors[:1])
    assert len(store) == 61


def test_desks_that_add_at_once_lose_nothing(store, url, photos, vectors):
    def desk():
        own = PostgresIndex(url, store.name.split()[0])
        for start in range(0, 60, 5):
            own.add(photos[start : start + 5], vectors[start : start + 5])

    threads = [threading.Thread(target=desk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 60
    assert [row[0] for row in ids(store, vectors)] == [photo.id for photo in photos]


def test_an_addition_that_fails_adds_nothing(store, photos, vectors):
    with pytest.raises(RunError, match="dimensions"):
        store.add(photos[:2], torch.zeros(2, vectors.shape[1] + 1))
    assert len(store) == 0
    with pytest.raises(DataError, match="holds no photos yet"):
        ids(store, vectors)


def test_a_graph_of_neighbours_is_built_once_there_are_many(store, photos, vectors, monkeypatch):
    store.add(photos, vectors)
    before = ids(store, vectors)
    monkeypatch.setattr(postgres_store, "HNSW_ABOVE", 50)
    store.prepare()
    store.prepare()
    table = f"vae_ldm_index_{store.name.split()[0]}"
    found = store._connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", [table]).fetchall()
    assert sum("hnsw" in line for (line,) in found) == 1
    store._connection.execute("SET enable_seqscan = off")  # so few that the server would not use it by itself
    assert ids(store, vectors) == before


@pytest.mark.parametrize("name", ["", "Claims", "a b", "x; drop table y", '"x"', "1st", "a" * 41, "../x"])
def test_a_name_that_is_none_is_refused_before_it_reaches_the_server(url, name, facts, space):
    for call in (
        lambda: PostgresIndex(url, name),
        lambda: PostgresIndex.exists(url, name),
        lambda: PostgresIndex.create(url, name, facts, space),
    ):
        with pytest.raises(VaeLdmError, match="is no name for an index"):
            call()


def test_rows_that_somebody_made_are_one_line(store, url, photos, vectors):
    store.add(photos, vectors)
    name = store.name.split()[0]
    run = store._connection.execute
    run(f"ALTER TABLE vae_ldm_index_{name} ALTER COLUMN label TYPE bytea USING 'x'::bytea")
    with pytest.raises(DataError, match=r"is damaged .*; restore it, or delete it and build the index anew"):
        ids(store, vectors[:1])
    facts = run("SELECT facts FROM vae_ldm_indexes WHERE name = %s", [name]).fetchone()[0]
    for changed in (
        {"latents.projection": torch.zeros(3)},
        {"latents.projection": store.space.tensors()["latents.projection"].half()},
        {"latents.share": torch.zeros(2, dtype=torch.float64)},
    ):
        space = save({**store.space.tensors(), **changed})
        content = {key: value for key, value in facts.items() if key != "digest"}
        stored = json.dumps(KIND.with_digest({**content, "space": hashlib.sha256(space).hexdigest()}))
        run("UPDATE vae_ldm_indexes SET facts = %s, space = %s WHERE name = %s", [stored, space, name])
        with pytest.raises(DataError, match=r"is damaged \(latents.* is .*; restore it") as caught:
            PostgresIndex(url, name)
        assert "\n" not in str(caught.value)
    huge = '{"format": ' + "9" * 5000 + "}"
    run("UPDATE vae_ldm_indexes SET facts = %s WHERE name = %s", [huge, name])
    with pytest.raises(DataError, match="is damaged"):
        PostgresIndex(url, name)


def test_absent_taken_and_unreachable_are_one_line_without_the_password(url, store, facts, space):
    name = store.name.split()[0]
    assert not PostgresIndex.exists(url, "absent")
    with pytest.raises(DataError, match="no index of this name"):
        PostgresIndex(url, "absent")
    with pytest.raises(VaeLdmError, match="exists already"):
        PostgresIndex.create(url, name, facts, space)
    for wrong in ("postgresql://anna:secret@127.0.0.1:1/x", "postgresql://anna:secret@127.0.0.1:port/x"):
        with pytest.raises((RunError, VaeLdmError)) as caught:
            PostgresIndex(wrong, "claims")
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
