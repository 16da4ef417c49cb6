"""The lesson told step by step, with the numbers of this very run: what `vae-ldm lesson` prints and draws."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vae_ldm.errors import VaeLdmError
from vae_ldm.lesson.autoencoder import (
    NUM_LATENTS,
    WIDTHS,
    Autoencoder,
    Terms,
    fit,
    linear_code_error,
    principal_components,
    squared_error,
)
from vae_ldm.lesson.figure import decoded_prior_picture, latent_space_picture, trade_off_picture
from vae_ldm.lesson.holes import REAL_SHARE, HoleMeter
from vae_ldm.lesson.judgement import (
    Judgement,
    fitted_gaussian,
    halfway,
    judge,
    light_correlation,
    posterior,
    rms,
    same_kind,
)
from vae_ldm.lesson.layers import central_differences, relative_error
from vae_ldm.lesson.patches import (
    CAMERA_NOISE,
    KINDS,
    NUM_PIXELS,
    Array,
    Patches,
    add_noise,
    draw_patches,
    four_patches,
)
from vae_ldm.lesson.vae import PlainDraw, Vae, kl_divergence
from vae_ldm.lesson.wording import beside, name_of, percent, signed, table_row

NUM_TRAIN, NUM_VALIDATION = 2000, 500
NUM_STEPS = 2000
MAX_BETA = 1000  # far beyond collapse
BETAS = (0.0, 0.01, 0.1, 1.0, 4.0)
DIRT = 0.15  # standard deviation of the noise that the autoencoder is to remove

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Material:
    """What every chapter looks at. `clean` are the validation patches before the camera's noise."""

    train: Patches
    validation: Patches
    clean: Patches
    four: Patches
    meter: HoleMeter


def prepare() -> Material:
    """The lesson's patches, always the same."""
    train, validation = draw_patches(NUM_TRAIN, seed=0), draw_patches(NUM_VALIDATION, seed=1)
    clean = draw_patches(NUM_VALIDATION, seed=1, noise=0)
    return Material(train, validation, clean, four_patches(), HoleMeter(train, validation))


def tell(say: Say, *, beta: float, output_dir: Path, num_steps: int = NUM_STEPS) -> list[Judgement]:
    """Print the story, write its three pictures; what was measured: the autoencoder first, then every beta.

    Raises VaeLdmError for a beta that is no weight, RunError where training with it fails.
    """
    if not 0 <= beta <= MAX_BETA:
        raise VaeLdmError(f"beta is {beta:g}; it weighs a loss term: give a number from 0 to {MAX_BETA}, such as 0.1")
    output_dir.mkdir(parents=True, exist_ok=True)
    material = prepare()

    tell_patches(say, material)
    tell_gradients(say, material, beta)
    plain = tell_autoencoder(say, material, num_steps)
    chosen = tell_vae(say, material, plain, beta, num_steps)
    judgements = tell_trade_off(say, material, plain, chosen, num_steps)
    tell_compression(say, chosen)

    pictures = {
        "1-latent-space.png": latent_space_picture(
            plain, chosen, material.validation, material.four, material.train.pixels
        ),
        "2-decoded-prior.png": decoded_prior_picture(plain, chosen, material.meter),
        "3-beta-trade-off.png": trade_off_picture(judgements, chosen, material.four, material.meter),
    }
    say("\nTHE THREE PICTURES")
    for name, picture in pictures.items():
        picture.save(output_dir / name)
        say(f"    {output_dir / name}")
    return judgements


def tell_patches(say: Say, material: Material) -> None:
    """Chapter 1: a picture is numbers."""
    say(f"1. PATCHES: A PICTURE IS {NUM_PIXELS} NUMBERS")
    say("Grey values in percent: 0 is black, 100 is white. The four that we follow:\n")
    for line in beside(material.four.pixels, [name_of(material.four, number) for number in range(4)]):
        say(line)
    near = f"{100 * material.meter.threshold:.1f} %"
    say(f"""
To learn from: {len(material.train)} patches of {len(KINDS)} kinds ({", ".join(KINDS)}),
and {len(material.validation)} more to judge by. What is on a patch lies here or there and is more or less
dark, and the camera adds noise of {100 * CAMERA_NOISE:.0f} %. So a patch is {NUM_PIXELS} numbers, but to say what is
on it takes fewer: its kind, a place, a strength.
"Looks like a real patch" means: a patch of the {len(material.train)} is within {near} of it (root mean
square over pixels). For {100 * REAL_SHARE:.0f} % of the {len(material.validation)} new patches that is so.""")


def tell_gradients(say: Say, material: Material, beta: float) -> None:
    """Chapter 2: gradients by hand, checked."""
    model = Vae(beta=beta, seed=0)
    pixels = material.four.pixels
    noise = np.random.default_rng(0).standard_normal((len(pixels), NUM_LATENTS))
    model.learn_with(pixels, noise)
    weight = model.encoder_parameters()[0]

    def loss() -> float:
        squared, kl = model.losses(pixels, noise)
        return float((squared + beta * kl).mean())

    error = relative_error(weight.gradient, central_differences(loss, weight.value))
    say(f"""
2. GRADIENTS BY HAND
Training asks of each weight: which way does the loss fall? layers.py has the
derivative of each layer; the chain rule hands it from layer to layer, backwards.
Check: nudge each of the {weight.value.size} weights of the first layer, the last that the chain
reaches, and see how the loss of the VAE below moves. Relative error: {error:.0e}""")


def tell_autoencoder(say: Say, material: Material, num_steps: int) -> Judgement:
    """Chapter 3: a neck of two numbers, what it is good for, and the holes."""
    train, validation, clean = material.train.pixels, material.validation.pixels, material.clean.pixels
    model = Autoencoder(seed=0)
    num_weights = sum(parameter.value.size for parameter in model.parameters())
    say(f"""
3. THE AUTOENCODER: {NUM_PIXELS} NUMBERS THROUGH A NECK OF {NUM_LATENTS}
Encoder [N, {NUM_PIXELS}] -> [N, {WIDTHS[0]}] -> [N, {WIDTHS[1]}] -> [N, {NUM_LATENTS}], decoder the same way back;
{num_weights} weights. Loss: squared error of what comes out, summed over a patch.
""")
    tell_losses(say, fit(model, train, num_steps=num_steps, seed=0))
    judgement = judge(model, material.meter)
    four = material.four.pixels
    say(f"""
On the {len(validation)} patches it never saw:                {judgement.reconstruction:.3f}
  the best linear code (principal components):  {linear_code_error(train, validation):.3f}
  the camera's noise alone:                     {squared_error(validation, clean).mean():.3f}
No code of {NUM_LATENTS} numbers holds the noise, and none should. Our four, out of {NUM_LATENTS} each:
""")
    codes = [f"({signed(a)}, {signed(b)})" for a, b in model.encode(four)]
    for line in beside(model.reconstruct(four), [f"{n + 1}: {code}" for n, code in enumerate(codes)]):
        say(line)
    dirty = add_noise(clean, DIRT, np.random.default_rng(2))
    before, after = (f"{100 * rms(pixels, clean):.1f} %" for pixels in (dirty, model.reconstruct(dirty)))
    kind_by_code, kind_by_pixels = (percent(same_kind(by, material.validation, material.train)) for by in (model, None))
    from_prior, from_fitted = percent(judgement.prior.real), percent(judgement.fitted.real)
    middle_of_codes, middle_of_pixels = (percent(halfway(by, material.meter)) for by in (model, None))
    say(f"""
Denoising   Noise of {100 * DIRT:.0f} % puts a patch {before} off. Through the neck it comes out
            {after} off: the decoder knows patches, and no noise.
Neighbours  The nearest patch by these {NUM_LATENTS} numbers is of the same kind for {kind_by_code}, by
            all {NUM_PIXELS} for {kind_by_pixels}: patches that are alike have codes that are alike.
Halfway     between two patches: the mean of their codes decodes to something that
            looks real for {middle_of_codes}, the mean of their pixels does for {middle_of_pixels}.
Holes       Draw {NUM_LATENTS} numbers and decode them. From N(0, 1), {from_prior} look real; from the
            Gaussian with the mean and spread of its own codes, {from_fitted}. The others
            fall between codes, where nothing told the decoder what to do.""")
    return judgement


def tell_vae(say: Say, material: Material, plain: Judgement, beta: float, num_steps: int) -> Judgement:
    """Chapter 4: clouds in place of points."""
    model = Vae(beta=beta, seed=0)
    example = kl_divergence(np.array([[1.0]]), 2 * np.log(np.array([[0.5]])))[0, 0]
    say(f"""
4. THE VAE: A CLOUD IN PLACE OF A POINT
The encoder gives a mean m and a spread s for each latent; the decoder gets
z = m + s eps, with eps drawn from N(0, 1). Loss: squared error + {beta:g} KL, where

    KL = -1/2 (1 + ln s^2 - m^2 - s^2)    nats, for each latent

is how far the cloud is from N(0, 1): 0 for m = 0 and s = 1, a cloud that tells
nothing. By hand, for m = 1 and s = 0.5:  -1/2 (1 - 1.386 - 1 - 0.25) = {example:.3f}.

How does an encoder learn through a random draw? eps is drawn first and is a constant
from then on, which makes z a function of m and s. The length of the encoder's
gradient, from the squared error:
""")
    for name, length in encoder_gradients(material.train.pixels[:100]).items():
        say(f"    {name:<42} {length:.3g}")
    say("")
    tell_losses(say, fit(model, material.train.pixels, num_steps=num_steps, seed=0))
    judgement = judge(model, material.meter)
    mean, std = posterior(model, material.four.pixels)
    say("\nThe clouds of our four patches, m +- s of each latent:")
    for number in range(4):
        cloud = "    ".join(f"{signed(m)} +- {s:.2f}" for m, s in zip(mean[number], std[number], strict=True))
        say(f"    {name_of(material.four, number):<18} {cloud}")
    centre, spread = fitted_gaussian(model, material.train.pixels)
    together = f"mean ({signed(centre[0])}, {signed(centre[1])}), spread ({spread[0]:.2f}, {spread[1]:.2f})"
    halves = [percent(halfway(one, material.meter)) for one in (plain.model, model)]
    say(f"""
All clouds together: {together}; the prior is 0 and 1.

                                                autoencoder       VAE
    squared error a patch, through m, no noise  {plain.reconstruction:11.3f} {judgement.reconstruction:9.3f}
    halfway between two patches looks real      {halves[0]:>11} {halves[1]:>9}
    draws from N(0, 1) look real                {percent(plain.prior.real):>11} {percent(judgement.prior.real):>9}

{verdict(plain, judgement)}""")
    return judgement


def verdict(plain: Judgement, vae: Judgement) -> str:
    """What the two columns of chapter 4 come to, whatever beta is."""
    if vae.num_active == 0:
        return """At this beta the posterior has collapsed: all clouds are N(0, 1), and the decoder is
told nothing. It answers with the mean of all patches."""
    if vae.prior.real > max(plain.prior.real, plain.fitted.real):
        return """The noise made the decoder sensible all around each code, and the KL term pushed the
clouds together into the prior: fewer holes, for a little blur."""
    return "At this beta random draws are no better for it: see how it lies on the dial below."


def tell_trade_off(
    say: Say, material: Material, plain: Judgement, chosen: Judgement, num_steps: int
) -> list[Judgement]:
    """Chapter 5: the dial."""
    say("""
5. BETA IS A DIAL: FAITHFUL AT ONE END, EMPTY AT THE OTHER
             squared      KL,  active    N(0, 1) draws      fitted draws
     beta      error    nats   units    real  coverage    real  coverage""")
    judgements = [plain]
    say(table_row(plain))
    for beta in sorted({*BETAS, float(chosen.beta or 0)}):
        if beta == chosen.beta:
            judgement = chosen
        else:
            model = Vae(beta=beta, seed=0)
            fit(model, material.train.pixels, num_steps=num_steps, seed=0)
            judgement = judge(model, material.meter)
        judgements.append(judgement)
        say(table_row(judgement))
    strong = next(judgement for judgement in judgements if judgement.beta == 1)
    light = light_correlation(strong.model, material.validation.pixels)
    four = material.four.pixels
    variances = " and ".join(f"{variance:.2f}" for variance in principal_components(material.train.pixels)[1])
    apart_out, apart_in = (100 * rms(pixels[0], pixels[1]) for pixels in (strong.model.reconstruct(four), four))
    say(f"""
    active    latents whose mean differs from patch to patch at all
    real      share of decoded draws that look like a real patch
    coverage  share of real patches that some draw looks like: a decoder with one
              good patch for every z would fool "real", but not this
    fitted    drawn from a Gaussian with the mean and spread of the model's latents

At beta 0 nothing holds the noise up: s falls towards 0, the KL grows, and the VAE is
an autoencoder again. With more beta the clouds grow and fill the prior. They also
overlap, so patches blur. A latent that saves less squared error than beta times its
nats is given up: posterior collapse, one unit after the other. A linear VAE keeps one
for each direction in which patches vary by more than beta / 2 (docs/lesson.md); along
the two widest directions the variance of ours is {variances}.
Fine detail goes first: it takes many nats to tell where thin lines are, and they are
few pixels. At beta 1, patch 1 (print) and patch 2 (edge) come out {apart_out:.1f} % apart; they
went in {apart_in:.0f} % apart. What is left is how light a patch is on the whole: the active
latent follows that with a correlation of {light:.3f}.""")
    return judgements


def tell_compression(say: Say, chosen: Judgement) -> None:
    """Chapter 6: bits, and on to the package."""
    say(f"""
6. HOW SMALL IS IT REALLY?
    {NUM_PIXELS} pixels of 8 bits      {NUM_PIXELS * 8:6d} bits a patch
    {NUM_LATENTS} latents of 32 bits     {NUM_LATENTS * 32:6d} bits, as they are stored
    KL at beta {chosen.beta:<12g} {chosen.kl / np.log(2):6.1f} bits, the most that the clouds tell about a patch

The rest of this package does the same with photos: AutoencoderKL stands for Vae,
16 x 16 x 4 latents for two numbers, kl_weight_per_latent for beta. It keeps beta
small, for faithful pictures, and lives with the holes: it scales the latents to
spread 1 and leaves it to a second network, the diffusion UNet, to learn where in
latent space the codes are. docs/lesson.md goes on from here.""")


def tell_losses(say: Say, history: list[Terms]) -> None:
    """A few rows of a training log; each is the mean of up to 50 steps before it."""
    names = list(history[0])
    say("      step" + "".join(f"{name:>16}" for name in names))
    num_steps = len(history)
    for step in sorted({1, num_steps // 20, num_steps // 5, num_steps // 2, num_steps} - {0}):
        window = history[step - 1 : step] if step <= 50 else history[step - 50 : step]
        means = [float(np.mean([terms[name] for terms in window])) for name in names]
        say(f"{step:10d}" + "".join(f"{mean:16.3f}" for mean in means))


def encoder_gradients(pixels: Array) -> dict[str, float]:
    """Length of the encoder's gradient from the squared error alone, with and without the reparameterisation."""
    lengths = {}
    samplings = {"z = m + s eps, eps held constant:": None, "z as drawn, m and s forgotten:": PlainDraw()}
    for name, sampling in samplings.items():
        model = Vae(beta=0.0, seed=0, sampling=sampling)
        model.learn(pixels, np.random.default_rng(0))
        squares = sum(float((parameter.gradient**2).sum()) for parameter in model.encoder_parameters())
        lengths[name] = float(np.sqrt(squares))
    return lengths
