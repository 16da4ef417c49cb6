"""Zero mean and unit variance per latent channel, folded into the autoencoder's own weights."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from vae_ldm.models.batches import batch_size_for, in_batches

# Where DiagonalGaussianDistribution clamps: a standard deviation of 3e-7, as near to none as it goes.
MIN_LOGVAR = -30.0
# Far under what rounding alone costs an autoencoder that is fit for half precision (it keeps 60 dB).
MIN_HALF_PSNR = 40.0
_NUM_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Mean and standard deviation of the latents over a set of pictures, float64 [c] each."""

    mean: Tensor
    std: Tensor


def latent_statistics(
    posteriors: Iterable[DiagonalGaussianDistribution], *, total: Callable[[Tensor], Tensor] = lambda values: values
) -> LatentStatistics:
    """Mean and standard deviation per channel of the posteriors' samples, over all pictures and positions.

    Exact, without sampling: Var[sample] = Var[mean] + E[var] (law of total variance). The posteriors are read once.
    Where each of several processes has a share of them, and none has none, `total` adds up a tensor over processes.
    """
    return weighted_latent_statistics(((posterior, None) for posterior in posteriors), total=total)


def weighted_latent_statistics(
    posteriors: Iterable[tuple[DiagonalGaussianDistribution, float | None]],
    *,
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> LatentStatistics:
    """`latent_statistics` where a picture of each batch of posteriors has the weight beside it, whatever its size.

    Without a weight, None, all positions count the same.
    """
    sums = torch.zeros(3, 1, dtype=torch.float64)
    for posterior, weight in posteriors:
        mean = posterior.mean.detach().to("cpu", torch.float64)
        square = mean.square() + posterior.var.detach().to("cpu", torch.float64)
        first = mean.sum(dim=(0, 2, 3))
        count = torch.full_like(first, mean[:, 0].numel())
        found = torch.stack([count, first, square.sum(dim=(0, 2, 3))])
        sums = sums + (found if weight is None else found * (weight / mean[0, 0].numel()))
    count, first, second = total(sums)
    assert bool(count.all()), "no posteriors to take statistics of"
    mean = first / count
    return LatentStatistics(mean, (second / count - mean.square()).clamp(min=0).sqrt())


def stored_statistics(autoencoder: AutoencoderKL) -> LatentStatistics | None:
    """The statistics in the config that StableDiffusionPipeline ignores: FLUX's shift, SDXL's per-channel ones.

    None where the config holds no more than a scaling factor, which the pipeline applies.
    """
    config = autoencoder.config
    zeros = torch.zeros(config.latent_channels, dtype=torch.float64)
    if config.latents_mean is not None and config.latents_std is not None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (config.latents_mean, config.latents_std))
        return LatentStatistics(mean, std / config.scaling_factor)
    if config.shift_factor:
        return LatentStatistics(zeros + config.shift_factor, zeros + 1 / config.scaling_factor)
    return None


@dataclass(frozen=True, eq=False)
class LatentScale:
    """Turns latents of `AutoencoderKL.encode` into those that a UNet sees: (raw - mean) / std, [1, c, 1, 1]."""

    mean: Tensor
    std: Tensor

    def normalize(self, raw: Tensor) -> Tensor:
        """Latents [B, c, h, w] as a UNet sees them."""
        return (raw - self.mean.to(raw)) / self.std.to(raw)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] as `AutoencoderKL.decode` takes them."""
        return latents * self.std.to(latents) + self.mean.to(latents)


def latent_scale(autoencoder: AutoencoderKL) -> LatentScale:
    """What the layout's own pipelines do between autoencoder and UNet, by its config: factor, shift or statistics."""
    config = autoencoder.config
    statistics = stored_statistics(autoencoder)
    if statistics is None:
        zeros = torch.zeros(config.latent_channels, dtype=torch.float64)
        statistics = LatentStatistics(zeros, zeros + 1 / config.scaling_factor)
    return LatentScale(statistics.mean.view(1, -1, 1, 1), statistics.std.view(1, -1, 1, 1))


@torch.no_grad()
def fold_latent_scaling(autoencoder: AutoencoderKL, statistics: LatentStatistics) -> None:
    """Rewrite the autoencoder in place so that the latents it gives have zero mean and unit variance per channel.

    The last linear map of the encoder becomes mean' = (mean - m) / s, logvar' = logvar - 2 ln s; the first of the
    decoder undoes it. A model without these maps (FLUX layout) first gains identity ones: a mean folded into the
    decoder's padded 3x3 convolution would be wrong at the border. `scaling_factor` becomes 1, and what the config held
    of shifts is dropped: the statistics are of the latents as `encode` gives them, not yet scaled by the old factor.

    Exact to rounding, except where logvar meets diffusers' bounds of -30 and 20, which stay where they are.
    A channel that never varies keeps its scale.
    """
    add_quant_convs(autoencoder)
    quant, post_quant = autoencoder.quant_conv, autoencoder.post_quant_conv
    mean = statistics.mean.to(quant.weight.device)
    std = statistics.std.to(quant.weight.device)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))

    scale = torch.cat([1 / std, torch.ones_like(std)])
    shift = torch.cat([-mean / std, -2 * std.log()])
    quant.weight.copy_(quant.weight.double() * scale.view(-1, 1, 1, 1))
    quant.bias.copy_(quant.bias.double() * scale + shift)

    weight = post_quant.weight.double()
    post_quant.bias.copy_(post_quant.bias.double() + weight[:, :, 0, 0] @ mean)
    post_quant.weight.copy_(weight * std.view(1, -1, 1, 1))

    autoencoder.register_to_config(scaling_factor=1.0, shift_factor=None, latents_mean=None, latents_std=None)


@torch.no_grad()
def silence_posterior(autoencoder: AutoencoderKL) -> None:
    """Set the log-variance of every posterior to -30, so that its sample is its mean.

    It is for an autoencoder trained without noise, whose log-variance was never trained, because diffusers' pipelines
    sample.
    """
    add_quant_convs(autoencoder)
    latent_channels = autoencoder.config.latent_channels
    autoencoder.quant_conv.weight[latent_channels:] = 0
    autoencoder.quant_conv.bias[latent_channels:] = MIN_LOGVAR


@torch.no_grad()
def add_quant_convs(autoencoder: AutoencoderKL) -> None:
    """Give the autoencoder quant_conv and post_quant_conv that change nothing, where it has none."""
    latent_channels = autoencoder.config.latent_channels
    if autoencoder.quant_conv is None:
        autoencoder.quant_conv = _identity_conv(2 * latent_channels, like=autoencoder)
        autoencoder.register_to_config(use_quant_conv=True)
    if autoencoder.post_quant_conv is None:
        autoencoder.post_quant_conv = _identity_conv(latent_channels, like=autoencoder)
        autoencoder.register_to_config(use_post_quant_conv=True)


def _identity_conv(channels: int, *, like: AutoencoderKL) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1, device=like.device, dtype=like.dtype)
    conv.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
    conv.bias.zero_()  # type: ignore[union-attr]
    return conv.train(like.training)


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """The images through the autoencoder and back without noise, in its precision: [B, C, H, W], about [-1, 1].

    At most 16 are processed at once, and fewer above 256 px.
    """

    def there_and_back(batch: Tensor) -> Tensor:
        latents = autoencoder.encode(batch.to(autoencoder.device, autoencoder.dtype)).latent_dist.mean
        return autoencoder.decode(latents).sample

    size = batch_size_for((images.shape[2], images.shape[3]), most=_NUM_AT_ONCE)
    return torch.cat(list(in_batches(there_and_back, images, size)))


def check_fold(before: AutoencoderKL, after: AutoencoderKL, images: Tensor) -> float:
    """Largest difference of any value that the two autoencoders reconstruct; under 1e-5 in float32 after a fold."""
    return (reconstruct(before, images) - reconstruct(after, images)).abs().max().item()


def decide_force_upcast(autoencoder: AutoencoderKL, images: Tensor) -> bool:
    """True where these photos do not survive half precision: not finite, or under 40 dB from float32's result."""
    # Written so that a figure that is not a number is not enough.
    return not half_precision_psnr(autoencoder, images) >= MIN_HALF_PSNR


def half_precision_psnr(autoencoder: AutoencoderKL, images: Tensor) -> float:
    """How near half precision comes to float32's reconstructions, PSNR in dB; NaN where it overflows.

    On a GPU the autoencoder runs in float16. On a CPU, where that is 20 times slower than float32, its weights and
    the output of every module are rounded to float16: they overflow where they would, sums are in float32 as there.
    """
    exact = reconstruct(autoencoder, images).float()
    half = copy.deepcopy(autoencoder)
    if half.device.type == "cpu":
        round_to_half(half)
    else:
        half.half()
    error = (reconstruct(half, images).float() - exact).square().mean()
    # The range of [-1, 1] is 2; an error of exactly 0 is as good as it gets.
    return (10 * torch.log10(4 / error.clamp(min=1e-12))).item() if error.isfinite() else float("nan")


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Let a float32 network compute about what it would in float16: weights and modules' outputs are rounded."""

    def round_output(_module: nn.Module, _inputs: object, output: object) -> object:
        return output.half().to(output.dtype) if isinstance(output, Tensor) else output

    for parameter in network.parameters():
        parameter.copy_(parameter.half())
    for module in network.modules():
        module.register_forward_hook(round_output)
