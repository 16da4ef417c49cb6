"""The pictures in a run's samples/ folder: reconstructions, samples a class, and the nearest training pictures."""

import numpy as np

from vae_ldm.evaluation.evaluator import AutoencoderEvaluation, SampleEvaluation
from vae_ldm.files import write_picture
from vae_ldm.pages.image_grid import image_grid, pair_grid
from vae_ldm.run.sample_prompts import SamplePrompts
from vae_ldm.run.session import Session

_NUM_PAIRS = 12
_SAMPLES_A_ROW = 8
_MAX_ROWS = 24


def draw_reconstructions(session: Session, evaluation: AutoencoderEvaluation) -> None:
    """Validation pictures beside their reconstructions: some from all over the split, and the worst."""
    originals, samples = session.pictures.validation.images, session.run.samples
    spread = np.linspace(0, len(originals) - 1, min(_NUM_PAIRS, len(originals))).astype(int)
    for name, rows in (("reconstructions", spread), ("worst_reconstructions", evaluation.worst[:_NUM_PAIRS])):
        grid = pair_grid(
            originals[rows],
            evaluation.reconstructions[rows],
            pairs_per_row=4,
            captions=[f"{evaluation.psnr[row]:.1f} dB" for row in rows],
        )
        write_picture(samples / f"{name}.png", grid)


def row_names(session: Session, asked: SamplePrompts) -> list[str]:
    """The row of the sample grid of each balanced sample: its class where captions differ, else its prompt."""
    assert session.recipe.diffusion is not None
    if session.recipe.diffusion.conditioning == "caption" and asked.labels is not None:
        return [session.pictures.validation.class_names[label] for label in asked.labels[asked.balanced]]
    return [asked.prompts[row] for row in asked.balanced]


def draw_samples(session: Session, samples: np.ndarray, row_names: list[str], evaluation: SampleEvaluation) -> None:
    """A grid of the first samples, one row a name, and of all the closest to a training picture beside it."""
    distinct = list(dict.fromkeys(row_names))
    rows_of = {name: [i for i, other in enumerate(row_names) if other == name] for name in distinct[:_MAX_ROWS]}
    columns = min(_SAMPLES_A_ROW, *map(len, rows_of.values()))
    if len(distinct) > 1 and (columns > 1 or len(distinct) <= _MAX_ROWS):
        chosen = [row for rows in rows_of.values() for row in rows[:columns]]
        grid = image_grid(samples[chosen], num_columns=columns, row_labels=list(rows_of))
    else:
        shown = samples[: min(_SAMPLES_A_ROW**2, len(row_names))]
        grid = image_grid(shown, num_columns=_SAMPLES_A_ROW)
    write_picture(session.run.samples / "samples.png", grid)
    closest = evaluation.closest[:_NUM_PAIRS]
    pairs = samples[closest], session.pictures.train.images[evaluation.nearest[closest]]
    grid = pair_grid(*pairs, pairs_per_row=4, titles=("sample", "nearest"))
    write_picture(session.run.samples / "neighbours.png", grid)
