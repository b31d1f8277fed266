"""Models in the box: trained ones that travel with the package, so that nothing waits for a training.

- stories: masked diffusion on `tinydiff.data.stories`
- stories_ar: an autoregressive model of the same size on the same texts, to race against
- prose: masked diffusion on sentences of Python's own documentation, in pieces of words

Each is the folder of a run with nothing but its averaged weights in it, in half precision: `learning.load` reads it as
it reads any other, and there is nothing to train on from. `python -m benchmarks.box` makes them; CARD.md beside the
weights says how they were trained, how good they are, and what they should not be used for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..decoders import CHOICE_TEMPERATURE
from ..learning import Run, checkpoint
from ..learning.run import write_weights

NAMES = ("stories", "stories_ar", "prose")
ROOT = Path(__file__).parent
CHOICE_TEMPERATURES = {"stories": 3.0, "python_prose": 3.0}
"""By the name of the data: how much noise in the order suits a model that is trained well, see `benchmarks.stories`."""


def found(run: Path) -> Path:
    """The folder of a model by its name, unless there is a folder of that name here; other paths as they are."""
    return ROOT / run if str(run) in NAMES and not run.exists() else run


def choice_temperature(config: dict[str, Any]) -> float:
    """The noise that suits a run by its config: that of the models in the box for runs on the same data."""
    return CHOICE_TEMPERATURES.get(config["data"]["name"], CHOICE_TEMPERATURE)


def pack(run: Run, folder: Path) -> None:
    """Write the averaged weights of a run, in half precision, and its config, replacing what is there."""
    weights = run.optimiser.flat.named(run.ema.values)
    with np.errstate(over="ignore"):
        half = {name: values.astype(np.float16) for name, values in weights.items()}
    for name, values in half.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has a weight too large for half precision")
    for name in checkpoint.FILES:
        (folder / name).unlink(missing_ok=True)
    write_weights(folder, half, run.config, run.step)
