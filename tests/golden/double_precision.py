"""Recipe of `double_precision.safetensors`: torchvision's MobileNetV3 segmentation networks computed in f64.

    python tests/golden/double_precision.py [--write]

`<network>` is the main head's output [21, h, w] before upsampling, computed in f64 from f32 weights and the f32 input
of `index.json`, and rounded to f32 at the end. The script prints the differences between torch's results in f32 on
one thread, in f32 on two threads, and in f64: largest and root mean square, in standard deviations.
"""

import torch

import fixture
import networks


def scores(model, images):
    """Return the main head's output before upsampling."""
    features = model.backbone(images)
    return model.classifier(features if "high" in features else features["out"])[0]


def show(pair, got, exact):
    difference = (got.double() - exact.double()) / exact.double().std(correction=0)
    print(f"{pair}: {difference.abs().max():.1e} at most, {difference.square().mean().sqrt():.1e} rms")


@torch.inference_mode()
def main():
    tensors = {}
    for case in networks.INDEX:
        name = case["case"]
        if case["task"] != "segmentation" or "mobilenet" not in name:
            continue
        model, images = networks.network(case), networks.network_input(case)
        single = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            single[threads] = scores(model, images)
        exact = scores(model.double(), images.double())
        for threads in (1, 2):
            show(f"{name}, f32 on {threads}", single[threads], exact)
        show(f"{name}, f32 on 1 and 2", single[1], single[2])
        tensors[name] = exact.float()
    fixture.arrays("double_precision.safetensors", tensors)


if __name__ == "__main__":
    main()
