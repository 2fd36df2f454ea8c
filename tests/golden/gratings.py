"""Recipe of the `gratings` files: two small networks after a short quantization-aware training.

    python tests/golden/gratings.py [--write]

The networks classify gratings of five directions and two frequencies. `gratings_mobilenet_v3_large.pth` is saved
before `torch.ao.quantization.convert`, `gratings_mobilenet_v2.pth` after it. `gratings.safetensors` has four `images`
[4, 3, 64, 64] u8 and the logits [4, 10] of both networks after `convert`. Training is reproducible on the same kind
of CPU only: on another one the weights differ, and `--write` replaces both networks.
"""

import math

import torch
from torch.nn.functional import cross_entropy
from torchvision.models import quantization

import fixture


def batch(count, generator, side=64):
    """Return `count` u8 images of gratings with random phase and color, and their classes (direction and frequency)."""
    kinds = torch.randint(0, 10, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle = (kinds % 5 * math.pi / 5).view(-1, 1, 1)
    frequency = torch.where(kinds >= 5, 0.9, 0.45).view(-1, 1, 1)
    phase = torch.rand(count, generator=generator).view(-1, 1, 1) * 2 * math.pi
    waves = torch.sin(frequency * (torch.cos(angle) * x + torch.sin(angle) * y) + phase)
    color = 0.8 + 0.3 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = 0.3 * torch.randn(count, 3, side, side, generator=generator)
    pixels = waves.unsqueeze(1) * color + noise
    return torch.clamp(torch.round(64 * pixels) + 128, 0, 255).to(torch.uint8), kinds


def network_input(images):
    return (images.float() - 128) / 64


def fit(model, steps, rate, generator):
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        images, kinds = batch(32, generator)
        loss = cross_entropy(model(network_input(images)), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(builder):
    """Return a network after quantization-aware training, before `torch.ao.quantization.convert`."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    model = builder(quantize=False, width_mult=0.1, num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    fit(model, 160, 3e-3, generator)
    model.eval()
    model.fuse_model(is_qat=True)
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("qnnpack")
    torch.ao.quantization.prepare_qat(model.train(), inplace=True)
    fit(model, 50, 3e-4, generator)
    model.apply(torch.ao.quantization.disable_observer)
    model.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)
    fit(model, 10, 1e-4, generator)
    return model


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "qnnpack"
    images, kinds = batch(200, torch.Generator().manual_seed(9))
    tensors = {"images": images[:4].contiguous()}
    for name, prepared in [("mobilenet_v3_large", True), ("mobilenet_v2", False)]:
        with torch.enable_grad():
            model = train(getattr(quantization, name))
        if prepared:
            fixture.checkpoint(f"gratings_{name}.pth", model.state_dict())
        torch.ao.quantization.convert(model.eval(), inplace=True)
        if not prepared:
            fixture.checkpoint(f"gratings_{name}.pth", model.state_dict())
        right = model(network_input(images)).argmax(1) == kinds
        print(f"{name}: {right.float().mean():.2f} of the images right")
        tensors[name] = model(network_input(images[:4]))
    fixture.arrays("gratings.safetensors", tensors)


main()
