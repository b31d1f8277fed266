"""PyTorch with torch.compile around the network."""

import torch

from benchmarks import torch_eager


def describe() -> str:
    """Version and threads."""
    return f"{torch_eager.describe()}, torch.compile"


torch_eager.compiled = torch.compile
CASES = {name: case for name, case in torch_eager.CASES.items() if name.startswith(("train step", "forward"))}
