"""The index in a folder: nothing lost, nothing twice, and nothing damaged goes unseen."""

import dataclasses
import errno
import hashlib
import io
import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from vae_ldm import files
from vae_ldm.desk.search import folder_store
from vae_ldm.desk.search.folder_store import IndexFolder
from vae_ldm.desk.search.store import KIND
from vae_ldm.desk.search.stored_vectors import VectorRows
from vae_ldm.errors import DataError, RunError, VaeLdmError
from vae_ldm.latent_space.vector_index import FaissIndex


@pytest.fixture
def folder(tmp_path, facts, space):
    return IndexFolder.create(tmp_path / "index", facts, space)


@pytest.fixture
def filled(folder, photos, vectors):
    with folder.writing():
        folder.add(photos, vectors)
    return folder


def found(store, queries, k=5):
    return [[(match.photo.id, round(match.similarity, 5)) for match in matches] for matches in store.search(queries, k)]


def parts(path):
    return sorted(file.name for file in path.glob("part-*"))


def test_what_is_added_is_found_now_and_after_opening_anew(filled, photos, vectors, facts, space):
    again = IndexFolder(filled.path)
    assert (again.facts, len(again), again.advice) == (facts, 60, None)
    assert torch.equal(again.space({"latents": vectors}), space({"latents": vectors}))
    for store in (filled, again):
        for number, matches in enumerate(store.search(vectors, 3)):
            assert matches[0].photo == photos[number]
            assert matches[0].similarity == pytest.approx(1, abs=1e-5)
    changed = dataclasses.replace(photos[0], content="other")
    assert again.known([*photos[:4], changed]) == {photo.key for photo in photos[:4]}
    from_above = dataclasses.replace(photos[5], id=f"photos/{photos[5].id}")
    assert again.known([from_above, dataclasses.replace(from_above, path="/elsewhere.png")]) == {from_above.key}


def test_many_small_additions_become_one_part_and_equal_one_large(
    folder, filled, photos, vectors, tmp_path, facts, space
):
    small = IndexFolder.create(tmp_path / "small", facts, space)
    with small.writing():
        for start in range(0, 60, 7):
            small.add(photos[start : start + 7], vectors[start : start + 7])
    assert len(parts(small.path)) == 2
    assert found(IndexFolder(small.path), vectors) == found(filled, vectors)


def test_a_full_part_is_left_alone(folder, photos, vectors, monkeypatch):
    monkeypatch.setattr(folder_store, "_PART_ROWS", 20)
    with folder.writing():
        for start in range(0, 60, 10):
            folder.add(photos[start : start + 10], vectors[start : start + 10])
    assert parts(folder.path) == [f"part-{n:06d}.{end}" for n in (1, 3, 5) for end in ("npy", "parquet")]
    assert [matches[0].photo for matches in IndexFolder(folder.path).search(vectors, 1)] == photos


@pytest.mark.parametrize("interrupted", range(3))
def test_an_interrupted_addition_leaves_the_index_as_it_was(filled, photos, vectors, monkeypatch, interrupted):
    before, calls, write = found(filled, vectors), [], folder_store._write

    def failing(path, content):
        calls.append(path)
        if len(calls) > interrupted:
            left = path.with_name(f".vae_ldm-{files._machine()}-{2**31 - 1}-{len(calls)}.part")
            left.write_bytes(content[:20])  # as a killed process would, whose number is nobody's now
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    more = [dataclasses.replace(photo, id=f"new {photo.id}") for photo in photos]
    monkeypatch.setattr(folder_store, "_write", failing)
    with pytest.raises(OSError, match="No space"), filled.writing():
        filled.add(more, vectors)
    monkeypatch.undo()
    again = IndexFolder(filled.path)
    assert len(again) == 60
    assert found(again, vectors) == before
    with again.writing():
        again.add(more, vectors)
    assert len(IndexFolder(filled.path)) == 120
    assert not list(filled.path.glob(".*"))
    assert len(parts(filled.path)) == 2


@pytest.mark.parametrize("name", ["part-000000.npy", "part-000000.parquet", "space.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named_in_one_line(filled, name, how):
    file = filled.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name}: (is damaged|cannot be read).*build the index anew") as caught:
        IndexFolder(filled.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: "{",
        lambda index: json.dumps({**index, "parts": 3}),
        lambda index: json.dumps({**index, "parts": [{**index["parts"][0], "number": "../../etc/passwd"}]}),
        lambda index: json.dumps({**index, "kind": "smell"}),
        lambda index: json.dumps({name: value for name, value in index.items() if name != "space"}),
        lambda index: json.dumps({**index, "format": 99}),
        lambda index: json.dumps({**index, "format": 1}),
        lambda index: json.dumps([]),
    ],
)
def test_an_index_json_that_is_none_is_one_line(filled, spoil):
    file = filled.path / "index.json"
    file.write_text(spoil(json.loads(file.read_text())))
    with pytest.raises(DataError, match=r"index\.json: (is damaged|was written by a newer)") as caught:
        IndexFolder(filled.path)
    assert "\n" not in str(caught.value)


def content_of(folder):
    """What index.json holds, without its format and digest."""
    stored = json.loads((folder.path / "index.json").read_text())
    return {name: value for name, value in stored.items() if name not in ("format", "written_by", "digest")}


def assert_refused_with(index, content):
    """Asserts that the index is one line to build it anew where index.json holds this content, its digest right."""
    (index.path / "index.json").write_text(json.dumps(KIND.with_digest(content)))
    with pytest.raises(DataError, match=r"is damaged .*build the index anew") as caught:
        IndexFolder(index.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parts", 3), ("parts", None), ("space", None), ("kind", "smell"), ("model", 5), ("backbone", 1),
        ("encoder", []), ("features", None), ("neighbours", {"rows": "../x", "made_for": 1, "digest": ""}),
        *(("parts", change) for change in (
            {"number": "../../etc/passwd"}, {"number": -1}, {"number": 1.5}, {"rows": 0}, {"rows": 59}, {"rows": "60"},
            {"photos": "0"}, {"vectors": None},
        )),
    ],
)  # fmt: skip
def test_facts_that_are_none_are_one_line_even_where_the_digest_is_right(filled, name, value):
    content = content_of(filled)
    content[name] = [{**content["parts"][0], **value}] if name == "parts" and isinstance(value, dict) else value
    assert_refused_with(filled, content)


def npz(folder):
    stream = io.BytesIO()
    np.savez(stream, **{f"array{number}": np.zeros(1) for number in range(60)})
    return stream.getvalue()


def npy_of(shape, dtype="<f4"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(60 * 4)


def photos_without_names(folder):
    columns = {name: pa.array([None] * 60, pa.string()) for name in folder_store._FIELDS}
    return folder_store._parquet(pa.table(columns))


def small_space(folder):
    return save({**folder.space.tensors(), "latents.projection": torch.zeros(3)})


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("part-000000.npy", npz), ("part-000000.npy", lambda folder: b"garbage"),
        ("part-000000.npy", lambda folder: pickle.dumps([0] * 60)),
        *(("part-000000.npy", lambda folder, change=change: npy_of(*change)) for change in (
            ((60, 2**40),), ((2**62, 2**62),), ((60,),), ((),), ((60, -1),), ((60, 0),), ((60, 1), "|O"),
            ((60, 1), ">f4"),
        )),
        ("part-000000.parquet", lambda folder: b"PAR1garbagePAR1"), ("part-000000.parquet", photos_without_names),
        ("space.safetensors", lambda folder: bytes([255] * 7 + [0]) + b"{}"), ("space.safetensors", small_space),
    ],
)  # fmt: skip
def test_a_file_that_somebody_made_is_one_line_even_where_its_digest_is_right(filled, name, made):
    file = filled.path / name
    file.write_bytes(made(filled))
    digest, content = hashlib.sha256(file.read_bytes()).hexdigest(), content_of(filled)
    if name.startswith("part"):
        content["parts"][0]["vectors" if name.endswith("npy") else "photos"] = digest
    else:
        content["space"] = digest
    assert_refused_with(filled, content)


def test_one_changed_fact_is_noticed(filled):
    file = filled.path / "index.json"
    file.write_text(file.read_text().replace('"abc"', '"abd"'))
    with pytest.raises(DataError, match="digest"):
        IndexFolder(filled.path)


def test_an_index_of_0_1_0_is_read_and_becomes_one_of_the_newest_format_when_it_grows(filled, photos, vectors):
    before = found(filled, vectors)
    file = filled.path / "index.json"
    file.write_text(json.dumps({"format": 2, **content_of(filled)}))
    old = IndexFolder(filled.path)
    assert (found(old, vectors), len(old), old.facts) == (before, 60, filled.facts)
    with old.writing():
        old.add([dataclasses.replace(photos[0], id="new")], vectors[:1])
    assert json.loads(file.read_text())["format"] == 3
    assert len(IndexFolder(filled.path)) == 61
    file.write_text(json.dumps({"format": 1, **content_of(filled)}))
    with pytest.raises(DataError, match="built by an older"):
        IndexFolder(filled.path)


def test_two_writers_at_once_are_refused_and_in_turn_both_are_kept(filled, photos, vectors):
    other = IndexFolder(filled.path)
    with filled.writing(), pytest.raises(RunError, match="another process is adding photos"), other.writing():
        pass
    more = [dataclasses.replace(photo, id=f"new {photo.id}", path=f"/new/{photo.id}") for photo in photos]
    with filled.writing():
        filled.add(more[:30], vectors[:30])
    with other.writing():  # it was opened before the first wrote
        assert len(other.known(more)) == 30
        other.add(more[30:], vectors[30:])
    assert len(IndexFolder(filled.path)) == 120


@pytest.mark.parametrize(("owner", "function"), [(IndexFolder, "_checked"), (np.lib.format, "open_memmap")])
def test_a_reader_survives_a_writer_that_replaces_the_part_it_reads(
    filled, photos, vectors, monkeypatch, owner, function
):
    read, added = getattr(owner, function), []

    def slow(*args, **kwargs):
        if ".parquet" in str(args) or ".npy" in str(args):
            monkeypatch.setattr(owner, function, read)
            added.append(args)
            with filled.writing():
                filled.add([dataclasses.replace(photos[0], id="new")], vectors[:1])
        return read(*args, **kwargs)

    monkeypatch.setattr(owner, function, slow)
    assert len(IndexFolder(filled.path)) == 61
    assert added


def test_places_that_are_taken_or_hold_no_index_are_said(filled, tmp_path, facts, space):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    (tmp_path / "file").touch()
    for path, message in [
        (filled.path, "holds an index already"),
        (tmp_path / "photos", r"not empty \(it holds 1\.jpg\)"),
        (tmp_path / "file", "is a file"),
    ]:
        with pytest.raises(VaeLdmError, match=message):
            IndexFolder.create(path, facts, space)
    for path in (tmp_path / "photos", tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(DataError, match="no index here"):
            IndexFolder(path)
    with pytest.raises(DataError, match="holds no photos yet"):
        list(IndexFolder.create(tmp_path / "empty", facts, space).search(torch.zeros(1, space.dim), 1))


def test_above_the_limit_faiss_is_asked_kept_on_disk_and_grows(filled, photos, vectors, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(folder_store, "FAISS_ABOVE", 50)
    before = found(filled, vectors, 1)
    with filled.writing():
        filled.prepare()
    assert [file.name for file in filled.path.glob("*.faiss")] == ["neighbours-60.faiss"]
    assert found(IndexFolder(filled.path), vectors, 1) == before

    more = [dataclasses.replace(photo, id=f"new {photo.id}") for photo in photos]
    with filled.writing():
        filled.add(more, -vectors)
    assert [matches[0].photo for matches in IndexFolder(filled.path).search(-vectors, 1)] == more  # not yet on disk
    with filled.writing():
        filled.prepare()
    assert [file.name for file in filled.path.glob("*.faiss")] == ["neighbours-120.faiss"]

    file = filled.path / "neighbours-120.faiss"
    whole, content = file.read_bytes(), content_of(filled)
    of_others = FaissIndex.train(torch.randn(120, 3).numpy(), num_vectors=120, lookup=lambda rows: rows)
    vast = whole.replace((8).to_bytes(8, "little"), (2**39).to_bytes(8, "little"))  # its lists, of which there are 8
    twice = whole.replace((119).to_bytes(8, "little"), (118).to_bytes(8, "little"))
    outside = whole.replace((119).to_bytes(8, "little"), (10**6).to_bytes(8, "little"))
    for made in (b"damaged", whole[:200], vast, of_others.to_bytes()):
        file.write_bytes(made)
        for digest in (content["neighbours"]["digest"], hashlib.sha256(made).hexdigest()):
            neighbours = {**content["neighbours"], "digest": digest}
            (filled.path / "index.json").write_text(json.dumps(KIND.with_digest({**content, "neighbours": neighbours})))
            # No loss: it follows from the vectors.
            assert [matches[0].photo for matches in IndexFolder(filled.path).search(-vectors, 1)] == more
    for made in (twice, outside):
        assert made != whole
        file.write_bytes(made)
        neighbours = {**content["neighbours"], "digest": hashlib.sha256(made).hexdigest()}
        (filled.path / "index.json").write_text(json.dumps(KIND.with_digest({**content, "neighbours": neighbours})))
        with pytest.raises(DataError, match="do not hold the rows that were added"):
            list(IndexFolder(filled.path).search(vectors, 120))


def test_without_faiss_all_are_compared_and_the_way_out_is_said(filled, vectors, monkeypatch):
    before = found(filled, vectors)
    monkeypatch.setattr(folder_store, "FAISS_ABOVE", 50)
    monkeypatch.setattr(folder_store, "has_faiss", lambda: False)
    again = IndexFolder(filled.path)
    with again.writing():
        again.prepare()
    assert found(again, vectors) == before
    assert "pip install 'vae_ldm[search]'" in (again.advice or "")


def test_a_copied_folder_is_the_same_index(filled, vectors, tmp_path):
    shutil.copytree(filled.path, tmp_path / "copy")
    assert found(IndexFolder(tmp_path / "copy"), vectors) == found(filled, vectors)


def test_rows_of_several_arrays_are_read_as_one():
    rows = VectorRows(2)
    whole = np.arange(20, dtype=np.float32).reshape(10, 2)
    for part in (whole[:3], whole[3:3], whole[3:9], whole[9:]):
        rows.append(part)
    for wanted in ([], [0], [2, 3], [0, 3, 8, 9], list(range(10))):
        assert np.array_equal(rows(np.array(wanted, np.int64)), whole[wanted])
