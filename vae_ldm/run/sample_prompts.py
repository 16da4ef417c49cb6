"""What a trained model is asked for when it is evaluated: the prompts, and which of them serve which measure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vae_ldm.assembly import class_prompts
from vae_ldm.data.pictures import Pictures
from vae_ldm.evaluation.evaluator import trained_classes
from vae_ldm.recipe import Recipe


@dataclass(frozen=True, eq=False)
class SamplePrompts:
    """N prompts; `labels` [N] are the classes that they ask for, None where there are none.

    Distances between distributions want the classes as often as the training pictures have them, or a perfect model is
    far from its own data; agreement and the grid want each class as often. So two sets share what is drawn: rows
    `as_in_training`, and rows `balanced`, which come first and go through the classes in turn.
    """

    prompts: list[str]
    labels: np.ndarray | None
    as_in_training: np.ndarray
    balanced: np.ndarray


def sample_prompts(recipe: Recipe, train: Pictures, validation: Pictures, num_samples: int) -> SamplePrompts:
    """At most `num_samples` prompts, as many as pictures are to be drawn.

    Both sets are of one size, the largest that `num_samples` pictures hold: all of them where classes are equally
    frequent, else fewer. Only classes with training pictures are asked for. A model of captions is asked with those of
    held-out pictures, so only for classes that these have as well; where some have no class, by captions in a random
    order, for all measures. An unconditional model is asked with the empty prompt.
    """
    assert recipe.diffusion is not None
    everything = np.arange(num_samples)
    if recipe.diffusion.conditioning == "none":
        return SamplePrompts([""] * num_samples, None, everything, everything)
    if recipe.diffusion.conditioning == "class":
        prompts_of = {label: [prompt] for label, prompt in enumerate(class_prompts(recipe, train.class_names))}
    else:
        prompts_of = {
            int(label): [validation.captions[row] for row in np.flatnonzero(validation.labels == label)]
            for label in np.unique(validation.labels)
        }
    classes = [int(label) for label in trained_classes(train.labels) if label in prompts_of]
    if -1 in prompts_of or not classes:
        order = np.random.default_rng(recipe.seed).permutation(len(validation))
        rows = order[everything % len(order)]
        return SamplePrompts([validation.captions[row] for row in rows], None, everything, everything)
    counts = np.array([(train.labels == label).sum() for label in classes])
    places, as_in_training, balanced = two_sets(counts, num_samples, recipe.seed)
    turns = [int((places[:row] == place).sum()) for row, place in enumerate(places)]
    asked = [prompts_of[classes[place]] for place in places]
    return SamplePrompts(
        [prompts[turn % len(prompts)] for prompts, turn in zip(asked, turns, strict=True)],
        np.array(classes, np.int64)[places],
        as_in_training,
        balanced,
    )


def two_sets(counts: np.ndarray, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes [M] to draw, M at most `num_samples`, and the rows of two sets of one size, as large as these hold.

    The first has the proportions of `counts` [C], by the largest remainder; the second goes through the classes in
    turn.
    """
    places = np.arange(len(counts))
    for size in range(num_samples, -1, -1):
        proportional = largest_remainder(counts, size, seed)
        turns, rest = divmod(size, len(counts))
        last_turn = np.sort(np.argsort(-proportional, kind="stable")[:rest])  # the classes that the other set has most
        in_turn = np.concatenate([np.tile(places, turns), last_turn])
        more = (proportional - np.bincount(in_turn, minlength=len(counts))).clip(min=0)
        if size + more.sum() <= num_samples:
            break
    drawn = np.concatenate([in_turn, np.repeat(places, more)])
    chosen = [np.flatnonzero(drawn == place)[:count] for place, count in enumerate(proportional)]
    return drawn, np.sort(np.concatenate(chosen)), np.arange(size)


def largest_remainder(counts: np.ndarray, size: int, seed: int) -> np.ndarray:
    """How many of `size` places each of the `counts` [C] is given in proportion; of equal remainders chance decides."""
    quotas = size * counts / counts.sum()
    whole = np.floor(quotas).astype(np.int64)
    chance = np.random.default_rng(seed).permutation(len(counts))
    order = np.lexsort((chance, -np.round(quotas - whole, 9)))
    whole[order[: size - whole.sum()]] += 1
    return whole


def left_out_classes(class_names: Sequence[str], train: Pictures) -> list[str]:
    """Names of the classes without a training picture."""
    trained = set(trained_classes(train.labels).tolist())
    return [name for label, name in enumerate(class_names) if label not in trained]
