"""Do the parts add up? The completeness error of each additive method, and of LRP, on real networks.

    python -m benchmarks.completeness [--photos N]

Errors are shares of the score, the logit of the predicted class; medians and largest over photos. The condition, the
sum of |parts| over the change that they add up to, says how much cancels.
"""

from __future__ import annotations

import argparse

from benchmarks.common import DATA, imagenet_squashed

import faithmap as fm
from faithmap.words import table

NETWORKS = {
    "MobileNetV2": f"mobilenet_v2@{DATA}/weights/mobilenet_v2.pth",
    "SqueezeNet": f"squeezenet1_0@{DATA}/weights/squeezenet1_0.pth",
    "EfficientNet-Lite0": "efficientnet-lite0",
}
METHODS = {
    "lift-cam": fm.methods.LIFTCAM(),
    "owen-cam": fm.methods.OwenCAM(),
    "deep-lift": fm.methods.DeepLIFT(),
    "full-grad": fm.methods.FullGrad(),
    "integrated-gradients, 50 steps": fm.methods.IntegratedGradients(),
    "integrated-gradients, 200 steps": fm.methods.IntegratedGradients(steps=200),
    "kernel-shap, 20 segments": fm.methods.KernelSHAP(segments=20, samples=200),
    "lrp": fm.methods.LRP(),
    "lrp, epsilon": fm.methods.LRP(rule="epsilon"),
}


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=4)
    photos = parser.parse_args().photos
    for name, pattern in NETWORKS.items():
        model = fm.load(pattern, resize="squash")
        x = model.prepare(imagenet_squashed(DATA, model.size[0])[0][:: 650 // photos][:photos])
        lines = []
        for label, method in METHODS.items():
            found = method.run(model, x)
            assert found.completeness_error is not None
            assert found.condition is not None
            assert found.scores is not None
            shares = found.completeness_error.double() / found.scores.double().abs()
            low, high = float(shares.median()), float(shares.max())
            lines.append([label, f"{low:.1e}", f"{high:.1e}", f"{float(found.condition.median()):.1f}"])
        print(f"\n{name}, {photos} photos\n")
        print(table(["method", "error, median", "largest", "condition, median"], lines), flush=True)


if __name__ == "__main__":
    main()
