"""What `vae-ldm lesson` prints and draws: the lesson step by step, with the numbers of the run at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vae_ldm.errors import VaeLdmError
from vae_ldm.lesson.autoencoder import (
    NUM_LATENTS,
    WIDTHS,
    PlainAutoencoder,
    fit,
    linear_code_error,
    principal_components,
    squared_error,
)
from vae_ldm.lesson.disentanglement import PRINT_SEEDS, Explained, explain, mutual_information_gap, vaes_of_print
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
    Patches,
    add_noise,
    draw_factor_grid,
    draw_patches,
    four_patches,
)
from vae_ldm.lesson.text import beside, loss_rows, name_of, percent, signed, table_row, told_rows
from vae_ldm.lesson.traversal import traversal_picture
from vae_ldm.lesson.vae import Vae, encoder_gradients, kl_divergence

NUM_TRAIN, NUM_VALIDATION = 2000, 500
NUM_STEPS = 2000
MAX_BETA = 1000  # far beyond collapse
BETAS = (0.0, 0.01, 0.1, 1.0, 4.0)
STRONG_NOISE = 0.15  # standard deviation of the noise that the autoencoder is to remove

TRAVERSED_BETAS = (0.01, 0.1, 1.0)
PRINT_STEPS_SHARE = 0.3  # of the steps that five kinds take

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Material:
    """The patches of all chapters. `clean` holds the validation patches before the camera's noise."""

    train: Patches
    validation: Patches
    clean: Patches
    four: Patches
    meter: HoleMeter


def prepare() -> Material:
    """The lesson's patches, which are the same in every run."""
    train, validation = draw_patches(NUM_TRAIN, seed=0), draw_patches(NUM_VALIDATION, seed=1)
    clean = draw_patches(NUM_VALIDATION, seed=1, noise=0)
    return Material(train, validation, clean, four_patches(), HoleMeter(train, validation))


def tell(say: Say, *, beta: float, output_dir: Path, num_steps: int = NUM_STEPS) -> list[Judgement]:
    """What was measured of the autoencoder and of every beta, after printing the story and writing its four pictures.

    Raises VaeLdmError for a beta that is no weight, RunError where training with it fails.
    """
    if not 0 <= beta <= MAX_BETA:
        raise VaeLdmError(f"beta {beta:g} cannot weigh a loss term: give a number from 0 to {MAX_BETA}, such as 0.1")
    output_dir.mkdir(parents=True, exist_ok=True)
    material = prepare()

    tell_patches(say, material)
    tell_gradients(say, material, beta)
    plain = tell_autoencoder(say, material, num_steps)
    chosen = tell_vae(say, material, plain, beta, num_steps)
    judgements = tell_trade_off(say, material, plain, chosen, num_steps)
    print_only, all_kinds = tell_disentanglement(say, judgements, num_steps)
    tell_compression(say, chosen)

    pictures = {
        "1-latent-space.png": latent_space_picture(
            plain, chosen, material.validation, material.four, material.train.pixels
        ),
        "2-decoded-prior.png": decoded_prior_picture(plain, chosen, material.meter),
        "3-beta-trade-off.png": trade_off_picture(judgements, chosen, material.four, material.meter),
        "4-what-each-latent-changes.png": traversal_picture(print_only, all_kinds),
    }
    say("\nTHE FOUR PICTURES")
    for name, picture in pictures.items():
        picture.save(output_dir / name)
        say(f"    {output_dir / name}")
    return judgements


def tell_patches(say: Say, material: Material) -> None:
    """Tell chapter 1: a picture is numbers."""
    say(f"1. PATCHES: A PICTURE IS {NUM_PIXELS} NUMBERS")
    say("We follow four patches. Grey values are in percent: 0 is black, 100 is white.\n")
    for line in beside(material.four.pixels, [name_of(material.four, number) for number in range(4)]):
        say(line)
    near = f"{100 * material.meter.threshold:.1f} %"
    say(f"""
The models learn from {len(material.train)} patches of {len(KINDS)} kinds ({", ".join(KINDS)})
and are judged by {len(material.validation)} others. Each patch is drawn from a kind, a place and a strength,
and the camera adds noise of {100 * CAMERA_NOISE:.0f} %. A patch is {NUM_PIXELS} numbers, but fewer numbers can say
what is on it.
A patch "looks real" if one of the {len(material.train)} is within {near} of it (root mean square over
pixels). That holds for {100 * REAL_SHARE:.0f} % of the {len(material.validation)} other patches.""")


def tell_gradients(say: Say, material: Material, beta: float) -> None:
    """Tell chapter 2: gradients by hand, and a check of them."""
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
Training asks for each weight in which direction the loss falls. layers.py holds the
derivative of each layer, and the chain rule passes gradients backwards through them.
The chain reaches the first layer last. We nudge each of its {weight.value.size} weights, see how the
loss of the VAE below moves, and compare with the gradient. Relative error: {error:.0e}""")


def tell_autoencoder(say: Say, material: Material, num_steps: int) -> Judgement:
    """Tell chapter 3: a bottleneck of two numbers, what it is good for, and its holes."""
    train, validation, clean = material.train.pixels, material.validation.pixels, material.clean.pixels
    model = PlainAutoencoder(seed=0)
    num_weights = sum(parameter.value.size for parameter in model.parameters())
    say(f"""
3. THE AUTOENCODER: {NUM_PIXELS} NUMBERS THROUGH A BOTTLENECK OF {NUM_LATENTS}
Encoder and decoder have {num_weights} weights together. The encoder maps
[N, {NUM_PIXELS}] -> [N, {WIDTHS[0]}] -> [N, {WIDTHS[1]}] -> [N, {NUM_LATENTS}], and the decoder maps the same way back.
The loss is the squared error summed over a patch.
""")
    for row in loss_rows(fit(model, train, num_steps=num_steps, seed=0)):
        say(row)
    judgement = judge(model, material.meter)
    four = material.four.pixels
    say(f"""
Squared error on the {len(validation)} patches that it has never seen:
  the autoencoder                               {judgement.reconstruction:.3f}
  the best linear code (principal components)   {linear_code_error(train, validation):.3f}
  the camera's noise alone                      {squared_error(validation, clean).mean():.3f}
No code of {NUM_LATENTS} numbers can hold the noise, and none should. Our four patches, each decoded
from {NUM_LATENTS} numbers:
""")
    codes = [f"({signed(a)}, {signed(b)})" for a, b in model.encode(four)]
    for line in beside(model.reconstruct(four), [f"{n + 1}: {code}" for n, code in enumerate(codes)]):
        say(line)
    noisy = add_noise(clean, STRONG_NOISE, np.random.default_rng(2))
    before, after = (f"{100 * rms(pixels, clean):.1f} %" for pixels in (noisy, model.reconstruct(noisy)))
    kind_by_code, kind_by_pixels = (percent(same_kind(by, material.validation, material.train)) for by in (model, None))
    from_prior, from_fitted = percent(judgement.prior.real), percent(judgement.fitted.real)
    middle_of_codes, middle_of_pixels = (percent(halfway(by, material.meter)) for by in (model, None))
    say(f"""
Denoising   Noise of {100 * STRONG_NOISE:.0f} % changes a patch by {before}. After the autoencoder the patch is
            off by {after}, because the decoder knows patches and no noise.
Neighbours  Similar patches have similar codes. The nearest patch by the {NUM_LATENTS} numbers is of
            the same kind in {kind_by_code} of the cases, and by all {NUM_PIXELS} pixels in {kind_by_pixels}.
Midpoints   The mean of the codes of two patches decodes to a patch that looks real in
            {middle_of_codes} of the cases. The mean of their pixels looks real in {middle_of_pixels}.
Holes       Two random numbers from N(0, 1) decode to a patch that looks real in {from_prior}
            of the cases, and in {from_fitted} if they have the mean and spread of the codes.
            The other draws fall between codes, where the decoder has learnt nothing.""")
    return judgement


def tell_vae(say: Say, material: Material, plain: Judgement, beta: float, num_steps: int) -> Judgement:
    """Tell chapter 4: a cloud for each patch instead of a point."""
    model = Vae(beta=beta, seed=0)
    example = kl_divergence(np.array([[1.0]]), 2 * np.log(np.array([[0.5]])))[0, 0]
    say(f"""
4. THE VAE: A CLOUD INSTEAD OF A POINT
The encoder gives a mean m and a spread s for each latent. The decoder gets
z = m + s eps, where eps is drawn from N(0, 1). The loss is squared error + {beta:g} KL with

    KL = -1/2 (1 + ln s^2 - m^2 - s^2)    nats, for each latent.

The KL divergence measures how far the cloud is from N(0, 1). It is 0 for m = 0 and
s = 1, which is a cloud that tells nothing about the patch. For m = 1 and s = 0.5 it is
-1/2 (1 - 1.386 - 1 - 0.25) = {example:.3f} nats.

An encoder can learn through a random draw because eps is drawn first and is a constant
afterwards, so that z is a function of m and s. This is the length of the encoder's
gradient of the squared error:
""")
    for name, length in encoder_gradients(material.train.pixels[:100]).items():
        say(f"    {name:<42} {length:.3g}")
    say("")
    for row in loss_rows(fit(model, material.train.pixels, num_steps=num_steps, seed=0)):
        say(row)
    judgement = judge(model, material.meter)
    mean, std = posterior(model, material.four.pixels)
    say("\nThe clouds of our four patches are, as m +- s of each latent:")
    for number in range(4):
        cloud = "    ".join(f"{signed(m)} +- {s:.2f}" for m, s in zip(mean[number], std[number], strict=True))
        say(f"    {name_of(material.four, number):<18} {cloud}")
    centre, spread = fitted_gaussian(model, material.train.pixels)
    together = f"mean ({signed(centre[0])}, {signed(centre[1])}), spread ({spread[0]:.2f}, {spread[1]:.2f})"
    halves = [percent(halfway(one, material.meter)) for one in (plain.model, model)]
    say(f"""
All clouds together have {together}.
The prior has 0 and 1.

                                                autoencoder       VAE
    squared error a patch, decoded from m       {plain.reconstruction:11.3f} {judgement.reconstruction:9.3f}
    midpoints of two codes look real            {halves[0]:>11} {halves[1]:>9}
    draws from N(0, 1) look real                {percent(plain.prior.real):>11} {percent(judgement.prior.real):>9}

{verdict(plain, judgement)}""")
    return judgement


def verdict(plain: Judgement, vae: Judgement) -> str:
    """What the two columns of chapter 4 show, in words, for any beta."""
    if vae.num_active == 0:
        return """At this beta the posterior has collapsed: all clouds are N(0, 1), so the decoder learns
nothing about the patch. It answers with the mean of all patches."""
    if vae.prior.real > max(plain.prior.real, plain.fitted.real):
        return """The noise taught the decoder what to do all around each code, and the KL term pushed the
clouds together into the prior. The VAE has fewer holes and blurs patches a little."""
    return "At this beta random draws do not look better. Chapter 5 compares it with other betas."


def tell_trade_off(
    say: Say, material: Material, plain: Judgement, chosen: Judgement, num_steps: int
) -> list[Judgement]:
    """Tell chapter 5: what more and less beta does."""
    say("""
5. BETA WEIGHS FAITHFUL PATCHES AGAINST USEFUL RANDOM DRAWS
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
    active    latents whose mean differs from patch to patch
    real      share of decoded draws that look real
    coverage  share of real patches that look like some draw; a decoder that gives one
              good patch for every z would have a high "real", but a low coverage
    fitted    draws from a Gaussian with the mean and spread of the model's latents

At beta 0 nothing keeps the noise up: s falls towards 0, the KL grows, and the VAE is an
autoencoder again. With more beta the clouds grow and fill the prior. They also overlap,
so patches blur. A latent that saves less squared error than beta times its nats is
given up. This is posterior collapse, and it happens to one latent after the other. A
linear VAE keeps one latent for each direction in which patches vary by more than
beta / 2 (docs/lesson.md). The two widest directions of our patches have the variances
{variances}.
Fine detail is lost first: thin lines cover few pixels, and it takes many nats to tell
where they are. Patch 1 (print) and patch 2 (edge) go in {apart_in:.0f} % apart, and at beta 1 they
come out {apart_out:.1f} % apart. The active latent still tells how light a patch is: it follows the
mean grey with a correlation of {light:.3f}.""")
    return judgements


def tell_disentanglement(
    say: Say, judgements: Sequence[Judgement], num_steps: int
) -> tuple[list[Explained], list[Explained]]:
    """Tell chapter 6: what each latent changes. The VAEs of print alone and those of all kinds, three betas each."""
    steps = max(1, round(PRINT_STEPS_SHARE * num_steps))
    say(f"""
6. ONE LATENT, ONE THING?
A patch of print is drawn from two factors, a place and a strength, and a VAE has two
latents. Nothing in the loss asks that each latent tells one factor. We train VAEs on
{NUM_TRAIN} patches of print alone, {steps} steps from each of {len(PRINT_SEEDS)} random starts, and measure the
share of each factor that each latent tells: their mutual information divided by the
entropy of the factor. A latent "changes" a factor if it tells at least 60 % of what the
other latent tells of it. MIG is the mutual information gap, between 0 and 1: what one
latent tells of a factor beyond the other, mean over factors (Chen 2018).

    beta latent     place  strength    changes                   MIG of three starts""")
    by_beta = vaes_of_print(NUM_TRAIN, num_steps=steps)
    for beta, starts in by_beta.items():
        for row in told_rows(beta, starts[0].told, [mutual_information_gap(start.told) for start in starts]):
            say(row)
    say("""
The shares are those of the first start. At beta 0.01 the gap depends on the start: here
both latents tell both factors. At beta 0.1 one latent changes the place and the other
the strength, after each of the three starts. A posterior has independent noise on its
latents, and that noise costs least where the latents change a patch in orthogonal ways,
as place and strength of print do (Rolinek 2019). At beta 0.4 one latent is given up,
and hardly anything tells the strength. So more beta does not raise the gap by itself.
It makes the gap depend less on the start, until it costs a latent.
The VAEs of chapter 5 have three factors to tell:

    beta latent      kind     place  strength    changes                   MIG""")
    grid = draw_factor_grid()
    models = {judgement.beta: judgement.model for judgement in judgements}
    all_kinds = [explain(model, grid) for beta in TRAVERSED_BETAS if isinstance(model := models[beta], Vae)]
    for one in all_kinds:
        for row in told_rows(one.model.beta, one.told, [mutual_information_gap(one.told)]):
            say(row)
    say("""
Two latents cannot tell three factors one by one. As long as both are active, each tells
a part of the kind and something else, and no beta changes that: these VAEs are not
disentangled. Without labels no loss can promise that a VAE is (Locatello 2019).
Picture 4 shows what each latent changes.""")
    return [starts[0] for starts in by_beta.values()], all_kinds


def tell_compression(say: Say, chosen: Judgement) -> None:
    """Tell chapter 7: how many bits the latents carry, and how the package goes on."""
    say(f"""
7. HOW SMALL IS A CODE?
    {NUM_PIXELS} pixels of 8 bits      {NUM_PIXELS * 8:6d} bits a patch
    {NUM_LATENTS} latents of 32 bits     {NUM_LATENTS * 32:6d} bits, as they are stored
    KL at beta {chosen.beta:<12g} {chosen.kl / np.log(2):6.1f} bits, the most that the clouds tell about a patch

The rest of this package does the same with photos: AutoencoderKL stands for Vae,
16 x 16 x 4 latents for two numbers, and kl_weight_per_latent for beta. It keeps beta
small for the sake of faithful pictures, and accepts the holes. It scales the latents to
spread 1, and a second network, the diffusion UNet, learns where in latent space the
codes are. docs/lesson.md goes on from here.""")
