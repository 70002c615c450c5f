"""How far imported weights are from torchvision's and timm's own arithmetic, model by model.

Random weights (statistics and biases too) go through `transfer/`; logits and the gradients of the
cross-entropy of two random images are compared in float32, in evaluation mode, each relative to its
largest value. Names and shapes of all models are compared by the tests.

  make test-parity      (installs what this needs)
  python benchmarks/weight_parity.py --models=resnet18,vgg11 --size=64
"""

import argparse
import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "transfer"


def main() -> None:
    """Prints a row per model and library, as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="", help="names, comma-separated; all by default")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    arguments = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    torch_side = importlib.import_module("torch_side")
    chosen = set(filter(None, arguments.models.split(",")))
    print("| model | names | logits | gradients |")
    print("| --- | --- | --- | --- |")
    for name, library in [*torch_side.PAIRS, ("resnet20", "torchvision")]:
        if chosen and name not in chosen:
            continue
        found = torch_side.closest(name, library, size=arguments.size)
        layer = f" from {found.layer} on" if found.layer else ""
        print(
            f"| {name} | {library} | {found.logits:.1e}{layer} | {found.gradients:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
