"""What it takes to build each model: a process of its own traces it and draws its parameters.

python benchmarks/build_models.py ['resnet*' ...] prints a Markdown table: CPU seconds to trace the
shapes, CPU seconds to compile and run the initialisation, and the largest resident memory of the
process beyond what importing took.
"""

import fnmatch
import json
import os
import resource
import subprocess
import sys
import time


def measure(name: str) -> dict[str, float]:
    """Builds one model in this process."""
    import jax
    import jax.numpy as jnp

    from cnn_lab.models.registry import MODELS

    entry = MODELS[name]
    module = entry.make(entry.num_classes)
    jax.block_until_ready(jnp.zeros(()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = jax.ShapeDtypeStruct((1, *entry.image_shape), jnp.float32)
    started = time.process_time()
    jax.eval_shape(lambda key, x: module.init(key, x, train=False), jax.random.key(0), image)
    traced = time.process_time()
    # The images are no constant of the program, and outputs that nobody reads are not computed.
    init = jax.jit(lambda key: module.init(key, jnp.zeros(image.shape), train=False))
    jax.block_until_ready(init(jax.random.key(0)))
    ended = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parameters": entry.num_parameters,
        "trace": traced - started,
        "init": ended - traced,
        "mib": (peak - before) / 1024,
    }


def main(patterns: list[str]) -> None:
    """Prints a line for every model whose name matches."""
    from cnn_lab.models.registry import MODELS

    print("| model | parameters | trace, s | compile and draw, s | memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name in MODELS:
        if patterns and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        process = subprocess.run(
            [sys.executable, __file__, "--one", name],
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
            capture_output=True,
            text=True,
            check=True,
        )
        row = json.loads(process.stdout)
        print(
            f"| {name} | {row['parameters']:,} | {row['trace']:.2f} | {row['init']:.2f} "
            f"| {row['mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:])
