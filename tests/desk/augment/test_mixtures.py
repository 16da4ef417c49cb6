"""The proof can say all three: helped, did not help, cannot be told."""

import json
from html import escape

import numpy as np
import pytest
import torch

from vae_ldm.desk.augment.mixtures import ARMS, JITTERED, LARGEST, REAL, Pool, arm_name, prove
from vae_ldm.desk.augment.proof_page import (
    FEW_SHOTS,
    Examples,
    ProofSetting,
    as_dict,
    as_markdown,
    example_rows,
    write_proof,
)
from vae_ldm.errors import DataError

NUM_REAL, NUM_SYNTHETIC = 60, 90


class FakeLearner:
    """Right with a probability that is a number of the arm alone, so that the truth is known."""

    num_steps = 7

    def __init__(self, truth, accuracies):
        self.truth, self.accuracies = truth, accuracies

    def __call__(self, rows, labels, num_classes, seed):
        has_jittered = bool((rows >= NUM_REAL + NUM_SYNTHETIC).any())
        num_synthetic = int(((rows >= NUM_REAL) & (rows < NUM_REAL + NUM_SYNTHETIC)).sum())
        num_real = int((rows < NUM_REAL).sum())
        share = num_synthetic / num_real
        arm = (
            JITTERED
            if has_jittered
            else REAL
            if share == 0
            else arm_name(min((0.1, 0.3, 1.0), key=lambda s: abs(s - share)))
        )
        generator = torch.Generator().manual_seed(seed * 1000 + ARMS.index(arm))
        right = torch.rand(len(self.truth), generator=generator) < self.accuracies[arm]
        return torch.where(right, self.truth, (self.truth + 1) % num_classes)


@pytest.fixture
def pool():
    return Pool(
        torch.arange(NUM_REAL) % 3,
        torch.arange(NUM_SYNTHETIC) % 3,
        torch.where(torch.arange(NUM_SYNTHETIC) < 30, torch.arange(NUM_SYNTHETIC), -1),
        3,
    )


def proof_of(pool, real, synthetic, jittered, num_held_out=600):
    truth = torch.arange(num_held_out) % 3
    accuracies = dict.fromkeys(ARMS, real) | {LARGEST: synthetic, JITTERED: jittered}
    return prove(FakeLearner(truth, accuracies), pool, truth, shots=(5, 10), num_seeds=6)


@pytest.mark.parametrize(
    ("real", "synthetic", "jittered", "num_held_out", "verdict"),
    [
        (0.60, 0.75, 0.62, 600, "helped"),
        (0.60, 0.60, 0.60, 6000, "did not help"),
        (0.70, 0.60, 0.70, 600, "did not help"),  # it harms
        (0.60, 0.70, 0.75, 600, "did not help"),  # plain augmentation does more
        (0.60, 0.64, 0.60, 30, "cannot be told"),
    ],
)
def test_all_three_verdicts(pool, real, synthetic, jittered, num_held_out, verdict):
    proof = proof_of(pool, real, synthetic, jittered, num_held_out)
    assert proof.verdict == verdict
    assert verdict.split()[-1] in proof.sentence("small-cnn")
    assert f"on {num_held_out:,} held-out real photos" in proof.sentence("small-cnn")
    gain = proof.gain(LARGEST, REAL)
    assert gain.interval.low < gain.value < gain.interval.high
    assert gain.value == pytest.approx(synthetic - real, abs=3 * (gain.interval.high - gain.interval.low) / 4 + 0.01)


@pytest.mark.parametrize("num_held_out", [3, 30])
def test_where_no_photo_is_judged_otherwise_there_are_too_few_to_tell(pool, num_held_out, tmp_path):
    proof = proof_of(pool, 1.0, 1.0, 0.0, num_held_out)
    assert proof.gain(LARGEST, REAL) == (0.0, None)
    assert proof.gain(LARGEST, JITTERED) == (1.0, None)
    assert proof.verdict == "cannot be told"
    assert "by +0.0 [too few photos to tell] against real photos alone" in proof.sentence("small-cnn")


def test_a_mixture_is_the_same_real_photos_and_a_growing_part_of_the_synthetic_ones(pool):
    mixtures = pool.mixtures(10, seed=0)
    real = mixtures[REAL]
    assert len(real) == 30
    assert pool.row_labels(real).bincount().tolist() == [10, 10, 10]
    before = set()
    for share in (0.1, 0.3, 1.0):
        rows = mixtures[arm_name(share)]
        assert set(real.tolist()) <= set(rows.tolist())
        added = set(rows.tolist()) - set(real.tolist())
        assert len(added) == round(share * 30)
        assert before <= added
        assert all(NUM_REAL <= row < NUM_REAL + NUM_SYNTHETIC for row in added)
        before = added
    copied = set(mixtures[JITTERED].tolist()) - set(real.tolist())
    assert {row - NUM_REAL - NUM_SYNTHETIC for row in copied} == set(real.tolist())
    assert not torch.equal(pool.mixtures(10, seed=1)[REAL].sort().values, real.sort().values)


def test_what_was_made_from_photos_that_are_not_among_the_few_is_left_out(pool):
    for seed in range(5):
        mixtures = pool.mixtures(4, seed)
        real = set(mixtures[REAL].tolist())
        added = [row - NUM_REAL for row in mixtures[LARGEST].tolist() if row >= NUM_REAL]
        sources = {int(pool.sources[row]) for row in added} - {-1}
        assert sources <= real
    everything = pool.mixtures(None, 0)[LARGEST]
    assert {int(pool.sources[row - NUM_REAL]) for row in everything.tolist() if row >= NUM_REAL} > {-1}


def test_too_few_synthetic_photos_are_all_of_them_and_as_many_copies_stand_against_them():
    pool = Pool(torch.arange(60) % 3, torch.arange(6) % 3, torch.full((6,), -1), 3)
    mixtures = pool.mixtures(None, 0)
    assert len(mixtures[LARGEST]) == len(mixtures[JITTERED]) == 66
    assert len(mixtures[arm_name(0.1)]) == 66
    assert pool.row_labels(mixtures[JITTERED]).bincount().tolist() == [22, 22, 22]


def test_shots_that_are_all_photos_are_one_line(pool):
    truth = torch.arange(60) % 3
    learner = FakeLearner(truth, dict.fromkeys(ARMS, 0.5))
    told = []
    proof = prove(learner, pool, truth, shots=(50, 20, 10, 10), num_seeds=2, progress=lambda *n: told.append(n))
    assert [row.shots for row in proof.rows] == [10, None]
    assert told[-1] == (20, 20)


def test_a_generator_that_knows_what_the_classifier_is_not_shown_proves_nothing(pool, setting):
    """Its photos are real ones beyond the few shots: with 5 and 10 a class they gain 15 points, beside all 0."""
    truth = torch.arange(6000) % 3
    few, everything = dict.fromkeys(ARMS, 0.6) | {LARGEST: 0.75}, dict.fromkeys(ARMS, 0.6)

    def learner(rows, labels, num_classes, seed):
        num_real = int((rows < NUM_REAL).sum())
        return FakeLearner(truth, few if num_real < NUM_REAL else everything)(rows, labels, num_classes, seed)

    learner.num_steps = 7
    proof = prove(learner, pool, truth, shots=(5, 10), num_seeds=5)
    for row in proof.rows[:-1]:
        assert proof.gain(LARGEST, REAL, row).interval.low > 0.1
    assert proof.verdict == "did not help"
    assert proof.sentence("small-cnn").startswith("Synthetic photos did not help: with 60 of them beside all 60 real")
    assert FEW_SHOTS in as_markdown(proof, setting)


@pytest.fixture
def setting():
    return ProofSetting(
        title="photos <b>",
        synthetic="augmented",
        classifier="small-cnn",
        num_train=60,
        num_synthetic=90,
        image_size=(16, 16),
        class_names=["a", "b", "c"],
        generator_note="The generator was trained on all 60 training photos.",
        probe_note="The probe is right on 63.2 % of 345 real photos that it has not seen.",
        left_out_note="3 classes are judged; there are no held-out photos of d <e>.",
        device="CPU",
        created="2026-11-25",
    )


def test_the_page_the_table_and_the_numbers_agree(pool, setting, tmp_path):
    proof = proof_of(pool, 0.6, 0.75, 0.6)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 16, 16, 3), np.uint8)
    examples = Examples(pictures, np.arange(60) % 3, pictures, np.arange(60) % 3)
    write_proof(tmp_path / "proof.html", proof, setting, examples)
    page = (tmp_path / "proof.html").read_text()
    assert "photos &lt;b&gt;" in page
    assert proof.sentence("small-cnn") in page
    notes = [setting.probe_note, FEW_SHOTS, setting.generator_note, escape(setting.left_out_note)]
    places = [page.index(note) for note in notes]
    assert places == sorted(places)
    assert page.count('class="judged"') == 1
    numbers = json.loads(json.dumps(as_dict(proof, setting)))
    markdown = as_markdown(proof, setting)
    for row in numbers["rows"]:
        for arm in ARMS:
            shown = f"{100 * row['arms'][arm]['balanced_accuracy']:.1f}"
            assert shown in page
            assert shown in markdown
    assert numbers["verdict"] == "helped"
    assert numbers["sentence"] in markdown
    assert numbers["gain_over_real"]["low"] > 0


@pytest.fixture
def sparse_pool():
    """Of the synthetic photos every one was made from photo 0, 1 or 2: with few photos a class mostly none is left."""
    return Pool(torch.arange(NUM_REAL) % 3, torch.arange(NUM_SYNTHETIC) % 3, torch.arange(NUM_SYNTHETIC) % 3, 3)


def test_a_line_without_a_synthetic_photo_has_no_numbers(sparse_pool, setting, tmp_path):
    proof = proof_of(sparse_pool, 0.6, 0.75, 0.6)
    assert [row.num_added[LARGEST] > 0 for row in proof.rows] == [False, False, True]
    numbers = json.loads(json.dumps(as_dict(proof, setting)))
    assert numbers["judged_by"] == "all"
    for row, none_added in zip(numbers["rows"], (True, True, False), strict=True):
        for arm in ARMS[1:]:
            assert (row["arms"][arm] == "none added") == none_added
    assert as_markdown(proof, setting).count("none added") == 2 * (len(ARMS) - 1)
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    write_proof(tmp_path / "proof.html", proof, setting, Examples(pictures, np.arange(3), pictures, np.arange(3)))
    page = (tmp_path / "proof.html").read_text()
    assert page.count(">none added<") == 2 * (len(ARMS) - 1)
    assert "With 5 a class a seed found none to add." in page
    assert "there were 0 synthetic photos" not in page


def test_what_is_the_same_mixture_is_learned_once(sparse_pool):
    truth = torch.arange(60) % 3
    learner = FakeLearner(truth, dict.fromkeys(ARMS, 0.5))
    calls, told = [], []

    def counting(*arguments):
        calls.append(arguments)
        return learner(*arguments)

    counting.num_steps = 7
    prove(counting, sparse_pool, truth, shots=(1,), num_seeds=2, progress=lambda *n: told.append(n))
    assert len(calls) == 2 + 2 * len(ARMS)
    assert told[-1] == (20, 20)


def test_where_no_line_has_a_synthetic_photo_there_is_nothing_to_prove():
    pool = Pool(torch.arange(60) % 3, torch.full((6,), 2), torch.zeros(6, dtype=torch.long), 3)
    truth = torch.arange(60) % 3

    def untouched(*_):
        raise AssertionError("nothing is trained")

    untouched.num_steps = 7
    with pytest.raises(DataError, match="not one synthetic photo could be added in any line") as caught:
        prove(untouched, pool, truth, shots=(5,), num_seeds=2)
    assert "\n" not in str(caught.value)


def of_classes(*counts, value=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.full((len(labels), 8, 8, 1), value, np.uint8) + labels[:, None, None, None].astype(np.uint8), labels


def test_real_photos_stand_beside_synthetic_ones_of_their_own_class_only():
    """Class a has one and five, b three and none, c two of each: a and c are shown, a half that is short is padded."""
    rows, names = example_rows(Examples(*of_classes(1, 3, 2), *of_classes(5, 0, 2, value=100)), ["a", "b", "c"])
    assert names == ["a", "c"]
    assert rows.shape == (2, 2, 2, 8, 8, 4)
    shown = rows[..., 3] == 255
    assert shown.all(axis=(3, 4)).sum(axis=2).tolist() == [[1, 2], [2, 2]]
    assert not shown[0, 0, 1].any()
    values = [np.unique(rows[row, kind][shown[row, kind], :3]).tolist() for row in (0, 1) for kind in (0, 1)]
    assert values == [[0], [100], [2], [102]]


def test_four_of_each_kind_are_shown_at_most():
    rows, _ = example_rows(Examples(*of_classes(9, 5), *of_classes(7, 6)), ["a", "b"])
    assert rows.shape[:3] == (2, 2, 4)
    assert (rows[..., 3] == 255).all()


def test_classes_with_few_pictures_still_make_a_page(pool, setting, tmp_path):
    proof = proof_of(pool, 0.6, 0.6, 0.6, 30)
    write_proof(tmp_path / "proof.html", proof, setting, Examples(*of_classes(1, 1, 1), *of_classes(1, 1, 1)))
    assert "Real and synthetic photos a class" in (tmp_path / "proof.html").read_text()


def test_without_a_class_that_has_both_there_are_no_pictures_on_the_page(pool, setting, tmp_path):
    proof = proof_of(pool, 0.6, 0.6, 0.6, 30)
    write_proof(tmp_path / "proof.html", proof, setting, Examples(*of_classes(1, 0, 1), *of_classes(0, 1, 0)))
    page = (tmp_path / "proof.html").read_text()
    assert "<img" not in page
    assert "#photos" not in page
