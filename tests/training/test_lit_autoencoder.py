import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_ldm.assembly import build_optimizer
from vae_ldm.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from vae_ldm.losses.kl import kl_divergence
from vae_ldm.losses.perceptual import PerceptualDistance
from vae_ldm.losses.reconstruction import l1_error, l2_error, ssim_error
from vae_ldm.models.autoencoder import set_trained_part
from vae_ldm.models.discriminator import PatchDiscriminator
from vae_ldm.models.pixels import to_unit_range
from vae_ldm.models.vision_features import load_efficientnet_lite
from vae_ldm.recipe import parts


def new_discriminator() -> PatchDiscriminator:
    torch.manual_seed(7)
    return PatchDiscriminator(in_channels=3, base_channels=8, num_layers=2)


def zero_error(reconstructions: Tensor, images: Tensor) -> Tensor:
    return (0.0 * reconstructions).flatten(1).mean(1)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())


# --- where gradients go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", ["perceptual", "adversarial"])
def test_gradient_of_a_term_reaches_decoder_and_encoder(lit, batches, term):
    settings: dict[str, Any] = {
        "perceptual": {"perceptual": PerceptualDistance(load_efficientnet_lite()), "perceptual_weight": 1.0},
        "adversarial": {
            "discriminator": new_discriminator(),
            "adversarial_weight": 1.0,
            "use_adaptive_weight": False,
        },
    }[term]
    module = lit(reconstruction=zero_error, variational=False, **settings)
    module.generator_loss(to_unit_range(batches[0]["images"]))[1].backward()
    assert has_gradient(module.autoencoder.decoder)
    assert has_gradient(module.autoencoder.encoder)


class GradientSpy:
    """Looks at all gradients at the moment that an optimizer steps, and after the whole training step."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.found: list[tuple[str, bool, bool]] = []
        module._step = self.spy(module._step)

    def spy(self, step: Any) -> Any:
        def spied(optimizer: Any, network: nn.Module) -> None:
            name = "discriminator" if network is self.module.discriminator else "autoencoder"
            self.found.append((name, has_gradient(self.module.autoencoder), has_gradient(self.module.discriminator)))
            step(optimizer, network)

        return spied


def test_each_step_sees_its_own_gradients_only(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), adversarial_weight=0.5)
    spy = GradientSpy(module)
    fit(module, batches, max_steps=2)
    # When the discriminator steps, the autoencoder's gradients are gone: nothing was added to them after its own step.
    assert spy.found == [("autoencoder", True, True), ("discriminator", False, True)] * 2
    assert not has_gradient(module)


def test_autoencoder_loss_leaves_no_gradient_in_the_discriminator(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), adversarial_weight=0.5)
    seen = []
    discriminator_loss = module.discriminator_loss

    def spied(images: Tensor, reconstructions: Tensor) -> Tensor:
        seen.append(has_gradient(module.discriminator))
        before = [p.grad.clone() for p in module.autoencoder.parameters()]
        loss = discriminator_loss(images, reconstructions)
        loss.backward(retain_graph=True)
        assert all(torch.equal(p.grad, b) for p, b in zip(module.autoencoder.parameters(), before, strict=True))
        module.discriminator.zero_grad(set_to_none=True)
        return loss

    module.discriminator_loss = spied
    fit(module, batches, max_steps=2)
    assert seen == [False, False]


def test_discriminator_learns_to_tell_photo_from_reconstruction(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), use_adaptive_weight=False, discriminator_learning_rate=2e-3)
    images = to_unit_range(batches[0]["images"])

    def loss() -> float:
        with torch.no_grad():
            return module.discriminator_loss(images, module.generator_loss(images)[0]).item()

    before = loss()
    fit(module, batches, max_steps=12)
    assert loss() < before - 0.1


# --- the terms --------------------------------------------------------------------------------------------------------


def test_every_term_is_the_direct_computation(lit, batches):
    features = PerceptualDistance(load_efficientnet_lite())
    module = lit(
        reconstruction=l2_error,
        ssim_weight=0.3,
        kl_weight=0.01,
        perceptual=features,
        perceptual_weight=0.2,
        discriminator=new_discriminator(),
        adversarial_weight=0.5,
    )
    images = to_unit_range(batches[0]["images"])
    torch.manual_seed(5)
    reconstructions, loss, terms = module.generator_loss(images)

    torch.manual_seed(5)
    posterior = module.autoencoder.encode(images).latent_dist
    direct = module.autoencoder.decode(posterior.sample()).sample
    reconstruction = (direct - images).square().mean()
    expected = {
        "reconstruction": reconstruction,
        "ssim_error": ssim_error(direct, images).mean(),
        "perceptual": features(direct, images).mean(),
        "kl": kl_divergence(posterior).mean(),
        "adversarial": hinge_generator_loss(module.discriminator(direct)).mean(),
    }
    without_game = reconstruction + 0.3 * expected["ssim_error"] + 0.2 * expected["perceptual"]
    last_layer = module.autoencoder.decoder.conv_out.weight
    expected["adaptive_weight"] = 0.5 * adaptive_weight(without_game, expected["adversarial"], last_layer)
    game = expected["adaptive_weight"] * expected["adversarial"]
    expected["loss"] = without_game + 0.01 * expected["kl"] + game

    assert terms.keys() == expected.keys()
    torch.testing.assert_close(reconstructions, direct)
    torch.testing.assert_close(loss, expected["loss"])
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach(), msg=name)
    fake = module.discriminator(direct.detach())
    critic = hinge_discriminator_loss(module.discriminator(images), fake).mean()
    torch.testing.assert_close(module.discriminator_loss(images, reconstructions), critic)


def test_terms_are_logged_under_their_names(lit, batches, fit):
    module = lit(ssim_weight=0.1, discriminator=new_discriminator(), adversarial_weight=0.5)
    names = ["reconstruction", "ssim_error", "kl", "adversarial", "adaptive_weight", "loss", "discriminator"]
    metrics = fit(module, batches, max_steps=1).callback_metrics
    assert set(metrics) == {f"train/{name}" for name in names}


def test_validation_uses_the_mode_and_measures_every_picture(lit, batches, fit):
    module = lit()
    uneven = [batches[0], {"images": batches[1]["images"][:1]}]
    trainer = fit(module, batches, max_steps=1, validation=uneven, val_check_interval=1, check_val_every_n_epoch=None)
    images = to_unit_range(torch.cat([batch["images"] for batch in uneven]))
    with torch.no_grad():
        posterior = module.autoencoder.encode(images).latent_dist
        reconstructions = module.autoencoder.decode(posterior.mode()).sample.clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (reconstructions - images).square().flatten(1).mean(1))
    assert trainer.callback_metrics["val/psnr"].item() == pytest.approx(psnr.mean().item(), abs=1e-4)
    ssim = 1 - ssim_error(reconstructions, images).mean()
    assert trainer.callback_metrics["val/ssim"].item() == pytest.approx(ssim.item(), abs=1e-5)


def test_a_plain_autoencoder_uses_the_mode_and_has_no_kl(lit, batches):
    module = lit(variational=False, kl_weight=1.0)
    images = to_unit_range(batches[0]["images"])
    reconstructions, _, terms = module.generator_loss(images)
    mode = module.autoencoder.encode(images).latent_dist.mode()
    assert torch.equal(reconstructions, module.autoencoder.decode(mode).sample)
    assert terms.keys() == {"reconstruction", "loss"}


def test_kl_weight_is_warmed_up_from_its_first_share_to_the_whole(lit, batches, fit):
    module = lit(kl_weight=1.0, kl_warmup_steps=4)
    shares = []

    def spied(images: Tensor) -> Any:
        shares.append(module._kl_share())
        return generator_loss(images)

    generator_loss, module.generator_loss = module.generator_loss, spied
    fit(module, batches, max_steps=6)
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_kl_share_scales_the_term_in_the_loss(lit, batches):
    images = to_unit_range(batches[0]["images"])
    losses = []
    for kl_warmup_steps in (0, 4):
        torch.manual_seed(0)
        losses.append(lit(kl_weight=0.5, kl_warmup_steps=kl_warmup_steps).generator_loss(images))
    (_, whole, terms), (_, quarter, _) = losses
    assert (whole - quarter).item() == pytest.approx(0.75 * 0.5 * terms["kl"].item(), rel=1e-4)


def test_kl_weight_per_latent_is_the_weight_of_the_sum_over_the_latents_divided_by_their_number(lit, batches):
    images = to_unit_range(batches[0]["images"])  # 16 px at f4 with 4 channels: 64 latent numbers
    losses = []
    for settings in ({"kl_weight": 3e-5}, {"kl_weight_per_latent": 3e-5 * 64}):
        torch.manual_seed(0)
        losses.append(lit(**settings).generator_loss(images))
    (_, of_the_sum, terms), (_, per_latent, same_terms) = losses
    assert torch.equal(of_the_sum, per_latent)
    assert torch.equal(terms["kl"], same_terms["kl"])  # what is logged stays in nats a picture


def _kl_to_reconstruction(module: Any, images: Tensor) -> float:
    """|gradient of the weighted KL| / |gradient of the reconstruction| at the encoder's last convolution."""
    torch.manual_seed(0)
    weight = module.autoencoder.encoder.conv_out.weight
    posterior = module.autoencoder.encode(images).latent_dist
    error = (
        module.image_terms["reconstruction"].loss(module.autoencoder.decode(posterior.sample()).sample, images).mean()
    )
    torch.manual_seed(0)
    _, loss, _ = module.generator_loss(images)
    (of_loss,) = torch.autograd.grad(loss, weight)
    (of_error,) = torch.autograd.grad(error, weight)
    return ((of_loss - of_error).norm() / of_error.norm()).item()


def test_the_kl_term_does_not_grow_with_the_picture(lit, batches):
    """A picture of 4 x 4 copies has 16 times the latents; a weight of their sum is that much stronger there."""
    # One colour a picture and hardly any noise in the latents: gradients of noise cancel over a larger picture.
    with torch.no_grad():
        lit().autoencoder.quant_conv.bias[4:] -= 12
    images = to_unit_range(batches[0]["images"])[:, :, :1, :1].expand(-1, -1, 16, 16)
    tiled = images.repeat(1, 1, 4, 4)
    growth = []
    for module in (lit(kl_weight_per_latent=0.1), lit(kl_weight=0.1 / 64)):
        small, large = (_kl_to_reconstruction(module, pictures) for pictures in (images, tiled))
        growth.append(large / small)
    assert growth[0] < 1  # the padding counts for less in a larger picture
    assert growth[1] / growth[0] == pytest.approx(16, rel=1e-3)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_nothing_of_the_discriminator_is_computed_before_its_start(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), adversarial_weight=0.5, adversarial_start_step=3)
    calls: list[int] = []
    module.discriminator.register_forward_hook(lambda *_: calls.append(module.global_step))
    before = weights(module.discriminator)
    fit(module, batches, max_steps=3)
    assert calls == []
    assert largest_difference(before, weights(module.discriminator)) == 0

    trainer = fit(module, batches, max_steps=5)
    assert calls == [3, 3, 3, 4, 4, 4]  # a step: once for the autoencoder, real and fake for itself
    assert trainer.global_step == 5
    assert largest_difference(before, weights(module.discriminator)) > 0


@pytest.mark.parametrize("start", [0, 2])
def test_global_step_counts_the_autoencoders_steps_only(lit, batches, fit, start):
    module = lit(
        discriminator=new_discriminator(), adversarial_weight=0.5, adversarial_start_step=start,
        accumulate_grad_batches=2,
    )  # fmt: skip
    optimizer_steps = []
    module._step, step = (
        lambda *args: (optimizer_steps.append(args[1] is module.autoencoder), step(*args)),
        module._step,
    )
    trainer = fit(module, batches, max_steps=4)
    assert trainer.global_step == 4
    assert sum(optimizer_steps) == 4
    assert len(optimizer_steps) == 8 - start
    assert trainer.fit_loop.epoch_loop.total_batch_idx + 1 == 8


@pytest.mark.parametrize("adversarial", [False, True])
def test_accumulation_equals_one_larger_batch(autoencoder, lit, batches, fit, adversarial):
    # SGD, because Adam's division by a small root would enlarge rounding; the adaptive weight is a batch's own.
    def train(batches: list[dict[str, Tensor]], k: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        game = {"discriminator": new_discriminator(), "adversarial_weight": 0.5, "use_adaptive_weight": False}
        module = lit(
            variational=False, accumulate_grad_batches=k, gradient_clip_norm=0.5, **game if adversarial else {}
        )
        module.autoencoder = copy.deepcopy(autoencoder)

        def sgd() -> Any:
            parts = [module.autoencoder] + ([module.discriminator] if adversarial else [])
            optimizers = [torch.optim.SGD(part.parameters(), lr=0.05) for part in parts]
            return optimizers, [torch.optim.lr_scheduler.ConstantLR(optimizers[0], 1.0)]

        module.configure_optimizers = sgd
        fit(module, batches, max_steps=3)
        return weights(module)

    whole = [{"images": torch.cat([batches[i]["images"], batches[i + 1]["images"]])} for i in (0, 2)]
    one, two = train(whole, 1), train(batches, 2)
    assert largest_difference(one, two) < 1e-5
    untrained = {f"autoencoder.{name}": weight for name, weight in autoencoder.state_dict().items()}
    assert largest_difference(untrained, one) > 1e-3


def test_gradient_clipping_acts_on_the_whole_norm(lit, batches, fit):
    module = lit(gradient_clip_norm=1e-2)
    norms = []
    configure = module.configure_optimizers

    def spied() -> Any:
        (optimizer,), schedulers = configure()

        def note_norm(*_: Any) -> None:
            norms.append(nn.utils.get_total_norm([p.grad for p in module.autoencoder.parameters()]).item())

        optimizer.register_step_pre_hook(note_norm)
        return [optimizer], schedulers

    module.configure_optimizers = spied
    fit(module, batches, max_steps=3)
    assert norms == pytest.approx([1e-2] * 3, rel=1e-3)


def test_learning_rate_follows_its_schedule_by_steps_not_batches(lit, batches, fit):
    optimizer = build_optimizer(parts.AdamW(learning_rate=1.0, lr_scheduler="linear", warmup_steps=2))
    module = lit(optimizer=optimizer, max_steps=6, accumulate_grad_batches=2)
    rates = []
    module._step = lambda optimizer, _: (rates.append(optimizer.param_groups[0]["lr"]), optimizer.step())
    fit(module, batches, max_steps=6)
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.25])


def test_bfloat16_trains_in_float32_weights(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), adversarial_weight=0.5, ssim_weight=0.1)
    before = weights(module)
    metrics = fit(module, batches, max_steps=3, precision="bf16-mixed").callback_metrics
    assert torch.isfinite(metrics["train/loss"])
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert largest_difference(before, weights(module)) > 0


def test_decoder_only_leaves_the_encoder_bit_identical(lit, batches, fit):
    module = lit(discriminator=new_discriminator(), adversarial_weight=0.5, kl_weight=1.0)
    set_trained_part(module.autoencoder, "decoder")
    before = weights(module.autoencoder)
    fit(module, batches, max_steps=3)
    after = module.autoencoder.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_reconstruction_error_falls(lit, batches, fit):
    module = lit(variational=False, optimizer=build_optimizer(parts.AdamW(learning_rate=3e-3, warmup_steps=0)))
    images = to_unit_range(batches[0]["images"])

    def error() -> float:
        with torch.no_grad():
            return l1_error(module.generator_loss(images)[0], images).mean().item()

    before = error()
    fit(module, batches[:1], max_steps=40)
    assert error() < 0.8 * before
