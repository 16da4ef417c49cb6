"""Variations with proof: what is drawn, what is left out, what a killed call leaves, and what the proof says."""

import json
import logging
import shutil
import struct
import zlib
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.conftest import probe_of_few_steps
from vae_ldm.cli import app
from vae_ldm.data.image_folder import ImageFolderSource
from vae_ldm.data.rendered_claims import CLASS_NAMES, render_claim
from vae_ldm.desk.augment import augment as augmenting
from vae_ldm.desk.augment import drawing
from vae_ldm.desk.augment.augment import augment
from vae_ldm.desk.augment.candidate_filter import CandidateFilter
from vae_ldm.desk.augment.drawing import PictureDrawer
from vae_ldm.desk.augment.folder import AugmentedFolder, Method, picture_name, slugs
from vae_ldm.desk.augment.proof import prove_augmentation
from vae_ldm.desk.augment.request import AugmentRequest
from vae_ldm.errors import DataError, ManyUnreadableError, RunError, VaeLdmError, WeightsError
from vae_ldm.opening import open_run
from vae_ldm.stored_json import StoredKind

CLASSES = ("good tin", "dented parcel")
QUICK = {"num_inference_steps": 2}


def render(folder, seed, label, size=(24, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    image = render_claim(seed, label=CLASS_NAMES.index(label), image_size=size).image
    image.save(folder / f"claim {seed}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "photos"
    for place, label in enumerate(CLASSES):
        for seed in range(12):
            render(folder / "train" / label, 100 * place + seed, label)
        for seed in range(6):
            render(folder / "validation" / label, 5000 + 100 * place + seed, label)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_probe():
    """A probe of a few steps tells tins from parcels as well."""
    with probe_of_few_steps():
        yield


@contextmanager
def lenience():
    judge = CandidateFilter.__call__

    def keep_most(self, pictures, labels):
        judged = judge(self, pictures, labels)
        fourth = torch.arange(len(pictures)) % 4 == 3
        return replace(judged, near_copy=fourth, off_class=torch.zeros(len(pictures), dtype=torch.bool))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CandidateFilter, "__call__", keep_most)
        yield


@pytest.fixture
def lenient():
    """A filter that keeps all but every fourth: the tiny model draws nothing that a real one would keep."""
    with lenience():
        yield


@pytest.fixture(scope="module")
def drawn(photos, trained_once, tmp_path_factory, quick_probe):
    """Six pictures of each of two classes. Copy it before changing anything in it."""
    out = tmp_path_factory.mktemp("drawn") / "augmented"
    with lenience():
        augment(photos, str(trained_once.path), out=out, request=AugmentRequest(per_class=6, **QUICK))
    return out


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_every_class_gets_as_many_as_asked_for_by_every_method(drawn):
    rows = rows_of(drawn)
    assert [row["label"] for row in rows] == [label for label in sorted(CLASSES) for _ in range(6)]
    methods = {(row["how"], row["strength"]) for row in rows}
    assert methods == {("posterior", None), ("vary", 0.3), ("vary", 0.5), ("vary", 0.7), ("sample", None)}
    files = {str(file.relative_to(drawn)) for file in drawn.rglob("*.png")}
    assert files == {row["file_name"] for row in rows}
    facts = json.loads((drawn / "augment.json").read_text())
    assert facts["finished"]
    assert sum(count["kept"] for count in facts["counts"]) == 12


@pytest.mark.parametrize(("per_class", "num_classes"), [(1, 5), (2, 5), (3, 10), (5, 1), (7, 5), (13, 5)])
def test_every_method_has_the_same_share_over_all_classes(per_class, num_classes):
    shares = [AugmentRequest(per_class=per_class).shares(turn) for turn in range(num_classes)]
    assert [sum(share) for share in shares] == [per_class] * num_classes
    assert max(max(share) - min(share) for share in shares) <= 1
    assert {sum(of_method) for of_method in zip(*shares, strict=True)} == {per_class * num_classes // 5}
    assert AugmentRequest(per_class=per_class).methods_without_share(num_classes) == []


@pytest.mark.usefixtures("lenient")
def test_progress_counts_what_is_kept_and_never_runs_backwards(photos, trained_run, tmp_path, monkeypatch):
    told = []

    class Noted(drawing.StepReport):
        def __call__(self, done, total):
            told.append((done, total))
            super().__call__(done, total)

    monkeypatch.setattr(drawing, "StepReport", Noted)
    request = AugmentRequest(per_class=6, **QUICK)
    rounds = augment(photos, str(trained_run.path), out=tmp_path / "augmented", request=request)
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert told == sorted(told)
    kept = np.cumsum([0, *(len(done.rows) for done in rounds)]).tolist()
    assert [done for done, _ in told] == kept


def test_methods_that_so_few_pictures_do_not_reach_are_named():
    assert AugmentRequest(per_class=2).methods_without_share(2) == ["sample"]
    assert AugmentRequest(per_class=2).methods_without_share(3) == []
    assert AugmentRequest(per_class=1, how=("sample",)).methods_without_share(1) == []


def test_a_small_number_is_made_by_different_methods_from_class_to_class(
    photos, trained_run, tmp_path, lenient, capsys
):
    out = tmp_path / "out"
    augment(photos, str(trained_run.path), out=out, request=AugmentRequest(per_class=2, **QUICK))
    methods = [(row["how"], row["strength"]) for row in rows_of(out)]
    assert methods == [("posterior", None), ("vary", 0.3), ("vary", 0.5), ("vary", 0.7)]
    printed = capsys.readouterr()
    assert "4 pictures are too few to share among all ways; sample draws only what the others miss" in printed.err
    assert "sample 0 0 0 0" in " ".join(printed.out.split())


def test_what_one_method_misses_the_next_ones_make(photos, trained_run, tmp_path, monkeypatch):
    """As a trained autoencoder does: its posterior samples are copies."""
    judge, copied = CandidateFilter.__call__, []

    def no_posterior(self, pictures, labels):
        near_copy = torch.full((len(pictures),), copied[-1])
        return replace(judge(self, pictures, labels), near_copy=near_copy, off_class=torch.zeros_like(near_copy))

    pictures = PictureDrawer._pictures

    def noting(self, prompt, method, sources, seeds):
        copied.append(method.how == "posterior")
        return pictures(self, prompt, method, sources, seeds)

    monkeypatch.setattr(CandidateFilter, "__call__", no_posterior)
    monkeypatch.setattr(PictureDrawer, "_pictures", noting)
    augment(photos, str(trained_run.path), out=tmp_path / "out", request=AugmentRequest(per_class=7, **QUICK))
    rows = rows_of(tmp_path / "out")
    counts = {label: [row["strength"] for row in rows if row["label"] == label] for label in CLASSES}
    # Shares 2 2 1 1 1, then 1 1 2 2 1: the two or one that are missing go to those that come next.
    assert counts["dented parcel"] == [0.3] * 3 + [0.5] * 2 + [0.7, None]
    assert counts["good tin"] == [0.3] * 2 + [0.5] * 2 + [0.7] * 2 + [None]


def test_a_picture_says_in_its_name_and_inside_how_it_was_made(drawn, trained_run):
    for row in rows_of(drawn):
        image = Image.open(drawn / row["file_name"])
        assert image.size == (16, 16)
        assert image.text["synthetic"] == "true"
        assert json.loads(image.text["provenance"]) == row
        assert row["model"] == str(trained_run.path)
        assert len(row["model_digest"]) == 64
        folder = row["label"].replace(" ", "_")
        name = row["file_name"].removeprefix(f"{folder}/{folder}-{row['how']}-")
        assert name.endswith(f"s{row['seed']:06d}.png")
        if row["how"] == "sample":
            assert row["source"] is None
        else:
            assert row["source"].startswith(f"train/{row['label']}/claim ")
            assert row["source"].removesuffix(".png").rpartition("/")[2].replace(" ", "_") in name
        assert row["text"] == f"a photo of {row['label']}"
        assert 0 <= row["confidence"] <= 1
        assert row["feature_distance"] > 0


def test_the_folder_loads_as_a_data_set_here_and_in_datasets(drawn, tmp_path):
    source = ImageFolderSource(drawn, caption_column="text")
    assert source.class_names == sorted(CLASSES)
    assert source.num_records("train") == 12
    assert next(source.records("train")).caption == "a photo of dented parcel"

    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(drawn), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 12
    assert {row["label"] for row in loaded} == set(CLASSES)
    assert all(row["synthetic"] for row in loaded)


def test_a_sample_is_the_picture_that_generate_draws_from_its_seed(drawn, trained_run, tmp_path):
    from vae_ldm.desk.generate import generate

    row = next(row for row in rows_of(drawn) if row["how"] == "sample")
    (file, _) = generate(
        trained_run.path,
        row["text"],
        num_images=1,
        seed=row["seed"],
        output_dir=tmp_path / "one",
        num_inference_steps=2,
    )
    pictures = [np.asarray(Image.open(one).convert("RGB")).astype(int) for one in (file, drawn / row["file_name"])]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


class Stop(Exception):  # noqa: N818
    """In place of kill -9."""


@pytest.mark.parametrize(
    ("where", "rounds"), [("before the pictures", 0), ("between pictures and notes", 3), ("after the notes", 5)]
)
def test_a_killed_call_goes_on_and_equals_one_that_was_not(
    drawn, photos, trained_run, tmp_path, monkeypatch, lenient, where, rounds
):
    out = tmp_path / "killed"
    add, write_note = AugmentedFolder.add, StoredKind.write
    done = 0

    def stopping(self, *arguments):
        nonlocal done
        if done == rounds and where == "before the pictures":
            raise Stop
        if done == rounds and where == "between pictures and notes":
            monkeypatch.setattr(StoredKind, "write", raise_stop)
        add(self, *arguments)
        if done == rounds:
            raise Stop
        done += 1

    def raise_stop(*arguments):
        raise Stop

    monkeypatch.setattr(AugmentedFolder, "add", stopping)
    request = AugmentRequest(per_class=6, **QUICK)
    with pytest.raises(Stop):
        augment(photos, str(trained_run.path), out=out, request=request)
    monkeypatch.setattr(StoredKind, "write", write_note)
    again = []

    def counting(self, *arguments):
        again.append(arguments[0])
        add(self, *arguments)

    monkeypatch.setattr(AugmentedFolder, "add", counting)
    with pytest.raises(VaeLdmError, match="is not finished; repeat the augment command"):
        prove_augmentation(photos, out, out=tmp_path / "proof.html")
    augment(photos, str(trained_run.path), out=out, request=request)
    kept = rounds + (where == "after the notes")
    assert len(again) == 10 - kept  # five methods, two classes: what was drawn before is not drawn again
    assert contents(out) == contents(drawn)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_room_made_the_call_goes_on(drawn, photos, trained_run, lenient, small_disk):
    disk = small_disk(60)
    command = ["augment", str(photos), "--model", str(trained_run.path), "--per-class", "6", "--denoising-steps", "2"]
    command += ["--out", str(disk / "augmented")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.output
    assert "No space left on device" in errors[0]
    kept = contents(disk / "augmented")
    assert any(name.endswith(".png") for name in kept)
    small_disk(4000)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert contents(disk / "augmented") == contents(drawn)


def test_a_finished_folder_is_left_as_it_is(drawn, photos, trained_run, capsys, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in drawn.rglob("*.png")}
    monkeypatch.setattr(augmenting, "_filter", None)  # nothing is measured anew
    rounds = augment(photos, str(trained_run.path), out=drawn, request=AugmentRequest(per_class=6, **QUICK))
    printed = capsys.readouterr()
    assert "finished already" in printed.err
    assert "near copies" in printed.out
    assert sum(len(done.rows) for done in rounds) == 12
    assert before == {file: file.stat().st_mtime_ns for file in drawn.rglob("*.png")}


def test_copies_and_other_classes_are_left_out_and_counted(photos, trained_run, tmp_path, monkeypatch, capsys):
    """The real filter, given a training photo, photos of the other class, and new photos of its own."""
    model_size = (16, 16)

    def fed(self, prompt, method, sources, seeds):
        label = prompt.removeprefix("a photo of ")
        other = next(name for name in CLASSES if name != label)
        pictures = []
        for place, seed in enumerate(seeds):
            if place % 4 == 0:
                rows = np.flatnonzero(self.train.labels == self.train.class_names.index(label))
                pictures.append(np.asarray(self.train.images[rows[seed % len(rows)]]))
                continue
            shown = other if place % 4 == 1 else label
            image = render_claim(90_000 + seed, label=CLASS_NAMES.index(shown), image_size=(24, 20)).image
            pictures.append(np.asarray(image.crop((0, 2, 20, 22)).resize(model_size, Image.Resampling.LANCZOS)))
        return np.stack(pictures)

    monkeypatch.setattr(PictureDrawer, "_pictures", fed)
    out = tmp_path / "out"
    rounds = augment(
        photos, str(trained_run.path), out=out, request=AugmentRequest(per_class=8, how=("sample",), max_tries=4)
    )
    drawn, near, off = (sum(getattr(done, name) for done in rounds) for name in ("drawn", "near_copies", "off_class"))
    assert near >= drawn / 4
    assert off >= drawn / 6
    rows = rows_of(out)
    assert len(rows) > 4
    assert all(row["pixel_distance"] > 0.01 and row["seed"] % 8 % 4 != 0 for row in rows)
    assert sum(row["seed"] % 8 % 4 == 1 for row in rows) <= 1
    assert f"all {drawn} {near} {off} {len(rows)}" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_draws_copies_only_is_told_and_the_search_ends(photos, trained_run, tmp_path, monkeypatch, capsys):
    def copying(self, prompt, method, sources, seeds):
        return np.asarray(self.train.images[: len(seeds)])

    monkeypatch.setattr(PictureDrawer, "_pictures", copying)
    with pytest.raises(RunError, match="nothing drawn was kept"):
        augment(photos, str(trained_run.path), out=tmp_path / "out", request=AugmentRequest(per_class=4))
    said = capsys.readouterr().err.splitlines()
    # Four rounds of 4 by each of 5 methods, then it is given up; a method asked for one picture draws its 8.
    assert "good tin: 0 of 4 after 72 drawn; the rest were near copies or seen as another class" in said


def test_a_way_that_gives_near_copies_only_is_given_up_for_all_classes(
    photos, trained_run, tmp_path, monkeypatch, capsys
):
    """Posterior samples of four classes are copies: three classes are enough to see it, and the others miss nothing."""
    several = Path(shutil.copytree(photos, tmp_path / "photos"))
    for label in CLASS_NAMES[-2:]:
        for seed in range(12):
            render(several / "train" / label, 300 + seed, label)
    monkeypatch.setattr(drawing, "_HOPELESS_DRAWN", 8)
    judge, methods = CandidateFilter.__call__, []

    def by_method(self, pictures, labels):
        near_copy = torch.full((len(pictures),), methods[-1] == "posterior")
        return replace(judge(self, pictures, labels), near_copy=near_copy, off_class=torch.zeros_like(near_copy))

    pictures = PictureDrawer._pictures

    def noting(self, prompt, method, sources, seeds):
        methods.append(method.name)
        return pictures(self, prompt, method, sources, seeds)

    monkeypatch.setattr(CandidateFilter, "__call__", by_method)
    monkeypatch.setattr(PictureDrawer, "_pictures", noting)
    request = AugmentRequest(per_class=2, how=("posterior", "sample"), **QUICK)
    rounds = augment(several, str(trained_run.path), out=tmp_path / "out", request=request)
    classes = dict.fromkeys(done.label for done in rounds if done.method == "posterior")
    drawn = sum(done.drawn for done in rounds if done.method == "posterior")
    assert len(classes) == 3
    assert [
        sum(len(done.rows) for done in rounds if done.label == label) for label in {*CLASSES, *CLASS_NAMES[-2:]}
    ] == [2] * 4
    said = capsys.readouterr().err
    reason = f"nothing kept of {drawn} pictures of 3 classes, {drawn} of them near copies"
    assert f"posterior: {reason}; given up for the other classes" in said
    unjudged = " and ".join(f'"{label}"' for label in sorted(CLASS_NAMES[-2:])).replace(" and ", ", ")
    assert f"there are no held-out photos of {unjudged}: augment prove will not judge what is drawn of these" in said
    assert said.index("The probe that looks for other classes is right on ") < said.index("posterior: nothing kept")


def test_classes_that_cannot_be_judged_are_named_and_the_others_are(drawn, photos, tmp_path, capsys):
    """A class without held-out photos, and synthetic photos of a class of which there are no photos at all."""
    judged, synthetic = (Path(shutil.copytree(one, tmp_path / one.name)) for one in (photos, drawn))
    for seed in range(4):
        render(judged / "train" / CLASS_NAMES[-1], 300 + seed, CLASS_NAMES[-1])
        render(synthetic / CLASS_NAMES[-1], 400 + seed, CLASS_NAMES[-1])
        render(synthetic / "zebra", 500 + seed, CLASS_NAMES[-1])
    proof = prove_augmentation(judged, synthetic, out=tmp_path / "p.html", shots=(), num_seeds=2, num_steps=2)
    assert proof.judged.num_real == 24
    assert proof.judged.num_added["+100 % synthetic"] == 12
    assert proof.labels.unique().tolist() == [0, 1]
    said = capsys.readouterr()
    note = f"2 classes are judged; there are no held-out photos of {CLASS_NAMES[-1]}."
    assert note in said.err
    assert note in said.out
    assert f"8 photos of classes that are not judged left out: {CLASS_NAMES[-1]}, zebra" in said.err

    shutil.rmtree(judged / "validation" / CLASSES[0])
    with pytest.raises(DataError, match=f"at least 2 classes must have .* there is 1 \\({CLASSES[1]}\\): put some"):
        prove_augmentation(judged, synthetic, out=tmp_path / "q.html")


def test_held_out_photos_that_are_training_photos_judge_nothing(drawn, photos, tmp_path, capsys):
    judged = Path(shutil.copytree(photos, tmp_path / "photos"))
    shutil.copy(judged / "train" / CLASSES[0] / "claim 3.png", judged / "validation" / CLASSES[0] / "again.png")
    proof = prove_augmentation(judged, drawn, out=tmp_path / "p.html", shots=(), num_seeds=2, num_steps=2)
    assert len(proof.labels) == 12
    note = "1 held-out photo is a training photo as well and judges nothing."
    assert note in capsys.readouterr().out
    assert note in (tmp_path / "p.html").read_text()


def test_what_an_older_version_has_finished_stays_and_what_it_has_begun_is_refused(tmp_path):
    folder = AugmentedFolder(tmp_path / "out")
    with folder.opened({"seed": 0}):
        pass
    facts = json.loads(folder.facts.read_text())
    for finished, refused in ((True, False), (False, True)):
        folder.facts.write_text(json.dumps(facts | {"format": 2, "finished": finished}))
        with pytest.raises(VaeLdmError, match="another version") if refused else nullcontext():
            folder.check({"seed": 0})


def test_the_runs_own_pictures_are_taken_where_no_photos_are_named(trained_run, tmp_path, lenient):
    run = tmp_path / "nano"
    shutil.copytree(trained_run.path, run)
    augment(None, str(run), out=tmp_path / "out", request=AugmentRequest(per_class=1, how=("sample",), **QUICK))
    rows = rows_of(tmp_path / "out")
    assert {row["label"] for row in rows} == set(CLASS_NAMES)
    assert json.loads((tmp_path / "out" / "augment.json").read_text())["num_generator_photos"] == 24


def test_unreadable_photos_are_named_and_left_out(photos, trained_run, tmp_path, lenient, capsys):
    photos = Path(shutil.copytree(photos, tmp_path / "photos"))
    whole = (photos / "train" / CLASSES[0] / "claim 0.png").read_bytes()
    (photos / "train" / CLASSES[0] / "cut.png").write_bytes(whole[:300])
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + whole[33:]
    (photos / "train" / CLASSES[1] / "bomb.png").write_bytes(bomb)
    out = tmp_path / "out"
    with pytest.raises(ManyUnreadableError, match="2 of 38 photos cannot be read"):
        augment(photos, str(trained_run.path), out=out, request=AugmentRequest(per_class=1, how=("sample",), **QUICK))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out ")]
    assert len(said) == 2
    assert any("bomb.png: too large (60000x60000 pixels" in line for line in said)
    assert any("cut.png: " in line for line in said)
    assert len(rows_of(out)) == 2
    assert logging.getLogger("vae_ldm.data.picture_cache").isEnabledFor(logging.WARNING)  # for who comes next


def test_wrong_calls_are_one_line_and_lose_nothing(photos, trained_run, tmp_path, drawn):
    run, out = str(trained_run.path), tmp_path / "new"
    flat, one, zoo = tmp_path / "flat", tmp_path / "one", tmp_path / "zoo"
    for seed in range(8):
        render(flat, seed, CLASSES[0])
        render(one / CLASSES[0], seed, CLASSES[0])
        render(zoo / "plains zebra", seed, CLASSES[0])
        render(zoo / "good tin", seed, CLASSES[0])
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    before = contents(drawn)
    exported = tmp_path / "exported"
    shutil.copytree(trained_run.pipeline, exported)
    cases = [
        (lambda: augment(tmp_path / "phots", run, out=out), DataError, "no such folder"),
        (lambda: augment(photos / ".." / "absent", run, out=out), DataError, "no such folder"),
        (lambda: augment(photos, str(tmp_path / "absent"), out=out), WeightsError, "no such folder"),
        (lambda: augment(photos, str(trained_run.autoencoder), out=out), WeightsError, "is no run and no pipeline"),
        (lambda: augment(flat, run, out=out), DataError, "no classes"),
        (lambda: augment(one, run, out=out), DataError, "all of one class, good tin"),
        (
            lambda: augment(zoo, run, out=out),
            DataError,
            'not trained on the class "plains zebra"; it knows the classes',
        ),
        (
            lambda: augment(zoo, str(exported), out=out, request=AugmentRequest(caption_template="a photo of {label}")),
            DataError,
            'not trained on the class "plains zebra"; it knows the words "a", "an", "backdrop", ',
        ),
        (lambda: augment(None, str(exported), out=out), DataError, "name a folder of photos"),
        (lambda: augment(photos, run, out=taken), VaeLdmError, "was not made by augment"),
        (lambda: augment(photos, run, out=taken / "mine.txt"), VaeLdmError, "was not made by augment"),
        (
            lambda: augment(photos, run, out=drawn, request=AugmentRequest(per_class=7, **QUICK)),
            VaeLdmError,
            "per_class was 6, not 7",
        ),
        (lambda: AugmentRequest(per_class=0), VaeLdmError, "per_class is 0"),
        (lambda: AugmentRequest(strengths=(1.5,)), VaeLdmError, "strength is 1.5"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value), str(caught.value)
    assert not out.exists()
    assert contents(drawn) == before
    assert (taken / "mine.txt").read_text() == "mine"


def test_an_unknown_class_is_told_with_the_classes_that_the_model_knows(photos, trained_run, tmp_path, monkeypatch):
    zoo = tmp_path / "zoo"
    for seed in range(8):
        for label in ("plains zebra", "tin whistle", "good tin"):
            render(zoo / label, seed, CLASSES[0])
    monkeypatch.setattr(augmenting, "_MAX_NAMED", 3)
    monkeypatch.setattr(augmenting, "real_photos", None)  # no photo is decoded for it
    with pytest.raises(DataError) as caught:
        augment(zoo, str(trained_run.path), out=tmp_path / "out")
    known = ", ".join(f'"{name}"' for name in CLASS_NAMES[:3])
    assert str(caught.value) == (
        f'{trained_run.path} was not trained on the classes "plains zebra", "tin whistle"; '
        f"it knows the classes {known} and {len(CLASS_NAMES) - 3} more; give photos of what it knows, or another model"
    )


def test_settings_that_contradict_the_folder_are_told_before_the_model_is_opened(drawn, photos, monkeypatch):
    monkeypatch.setattr(augmenting, "PhotoPipeline", None)
    for other in (AugmentRequest(per_class=6, seed=1, **QUICK), AugmentRequest(per_class=6, num_inference_steps=3)):
        with pytest.raises(VaeLdmError, match="begun with other settings"):
            augment(photos, "absent", out=drawn, request=other)


def test_another_model_is_told_before_the_photos_are_read(drawn, photos, trained_run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(trained_run.path, other)
    weights = other / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    monkeypatch.setattr(augmenting, "real_photos", None)
    with pytest.raises(VaeLdmError, match=r"begun with other settings \(model_digest was "):
        augment(photos, str(other), out=drawn, request=AugmentRequest(per_class=6, **QUICK))


def test_two_calls_never_fill_one_folder(tmp_path):
    folder = AugmentedFolder(tmp_path / "out")
    with (
        folder.opened({"seed": 0}),
        pytest.raises(RunError, match="another process is filling it"),
        AugmentedFolder(tmp_path / "out").opened({"seed": 0}),
    ):
        pass


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("good tin", "good_tin"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", "class-"),
        ("", "class-"),
        (".hidden", "hidden"),
        ("train", "class-train"),
        ("Größe/10€", "Größe_10"),
        ("x" * 300, "x" * 40),
    ],
)
def test_names_lead_nowhere_else(label, name):
    assert slugs([label]) == {label: name}
    file = picture_name(name, Method("vary", 0.5), f"a/{label}.jpg", 7)
    assert file.startswith(f"{name}/{name}-vary-0.5-")
    assert file.endswith("-s000007.png")
    assert ".." not in file


def test_classes_that_read_alike_get_folders_of_their_own():
    assert list(slugs(["a b", "a_b", "A b"]).values()) == ["a_b", "a_b-2", "A_b-3"]


@pytest.mark.parametrize("classifier", ["small-cnn", "probe"])
def test_the_proof_from_photos_to_page(drawn, photos, tmp_path, capsys, classifier):
    out = tmp_path / "proof.html"
    proof = prove_augmentation(photos, drawn, out=out, classifier=classifier, shots=(3,), num_seeds=2, num_steps=5)
    assert [row.shots for row in proof.rows] == [3, None]
    assert len(proof.labels) == 12
    assert proof.rows[-1].num_real == 24
    assert proof.rows[-1].num_added["+100 % synthetic"] == 12
    printed = capsys.readouterr().out
    assert proof.sentence(classifier) in printed
    assert "The generator was trained on all 24 training photos" in printed
    assert "and, pixel by pixel, on none of the held-out ones." in printed
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert (numbers["num_train"], numbers["num_synthetic"], numbers["verdict"]) == (24, 12, proof.verdict)
    assert out.with_suffix(".md").read_text() in printed
    assert proof.sentence(classifier) in out.read_text()


def test_held_out_photos_that_the_generator_has_learned_from_are_counted(drawn, photos, trained_run, tmp_path, capsys):
    judged = Path(shutil.copytree(photos, tmp_path / "photos"))
    learned = open_run(trained_run.path).learned
    for row in range(3):
        Image.fromarray(learned.images[row]).save(judged / "validation" / CLASSES[0] / f"learned {row}.png")
    prove = partial(prove_augmentation, judged, shots=(), num_seeds=2, num_steps=2)
    prove(drawn, out=tmp_path / "proof.html")
    assert "and on 3 of the 15 held-out ones as well, so this proves nothing." in capsys.readouterr().out

    elsewhere = Path(shutil.copytree(drawn, tmp_path / "drawn"))
    facts = json.loads((elsewhere / "augment.json").read_text())
    (elsewhere / "augment.json").write_text(json.dumps({**facts, "model": str(tmp_path / "gone")}))
    prove(elsewhere, out=tmp_path / "another.html")
    assert "whether it has learned from the held-out ones as well cannot be checked" in capsys.readouterr().out


def test_one_picture_a_class_is_tried_for_more_than_twice(photos, trained_run, tmp_path, monkeypatch):
    judge = CandidateFilter.__call__
    seen = []

    def the_fifth_passes(self, pictures, labels):
        judged = judge(self, pictures, labels)
        seen.append(len(pictures))
        passes = torch.full((len(pictures),), len(seen) % 5 == 0)
        return replace(judged, near_copy=~passes, off_class=torch.zeros_like(passes))

    monkeypatch.setattr(CandidateFilter, "__call__", the_fifth_passes)
    rounds = augment(
        photos,
        str(trained_run.path),
        out=tmp_path / "out",
        request=AugmentRequest(per_class=1, how=("sample",), **QUICK),
    )
    assert [len(done.rows) for done in rounds] == [0, 0, 0, 0, 1] * 2


def test_a_folder_that_augment_did_not_make_is_proved_as_well(photos, tmp_path, capsys):
    folder = tmp_path / "bought"
    for place, label in enumerate(CLASSES):
        for seed in range(4):
            render(folder / label, 7000 + 100 * place + seed, label)
    prove_augmentation(photos, folder, out=tmp_path / "proof.html", shots=(), num_seeds=2, num_steps=2)
    assert "is not known" in capsys.readouterr().out


def test_what_cannot_be_proved_is_one_line(drawn, photos, tmp_path):
    page = tmp_path / "proof.html"
    leaking, strange = tmp_path / "leaking", tmp_path / "strange"
    shutil.copytree(drawn, leaking)
    rows = rows_of(leaking)
    rows[0]["source"] = "validation/good tin/claim 5000.png"
    (leaking / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    render(strange / "zebra", 1, CLASSES[0])
    cases = [
        (lambda: prove_augmentation(photos, leaking, out=page), VaeLdmError, "1 of its photos was made from held-out"),
        (
            lambda: prove_augmentation(photos, photos / "validation", out=page),
            VaeLdmError,
            "12 of its 12 photos are held-out photos, pixel by pixel",
        ),
        (lambda: prove_augmentation(photos, strange, out=page), DataError, "no real photos of its class zebra"),
        (lambda: prove_augmentation(photos, drawn, out=tmp_path / "no" / "p.html"), VaeLdmError, "no such folder"),
        (lambda: prove_augmentation(photos, drawn, out=page, num_seeds=1), VaeLdmError, "at least 2"),
        (lambda: prove_augmentation(None, strange, out=page), DataError, "name a folder of photos"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not page.exists()
