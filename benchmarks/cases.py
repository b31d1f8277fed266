"""What is measured: names and shapes, shared by every implementation so that all run the same work.

An implementation is a module with `describe() -> str` and `CASES: dict[str, Callable[[], Callable[[], object]]]`: a
case name to a function that prepares inputs and returns the call to be timed. Names that an implementation lacks are
shown as "-".
"""

from dataclasses import dataclass

VOCABULARY = 100


@dataclass(frozen=True)
class Size:
    """A model and its batch: d_model, layers, heads, length, batch."""

    d_model: int
    layers: int
    heads: int
    length: int
    batch: int


SIZES = {"S": Size(64, 2, 4, 64, 32), "M": Size(128, 4, 4, 128, 32), "L": Size(192, 6, 6, 256, 16)}
SAMPLING_BATCHES = (1, 32)  # of size M
ATTENTION = ((32, 4, 128, 32), (16, 6, 256, 32), (4, 4, 1024, 32), (1, 4, 4096, 32))  # B, H, L, D
ROWS = ((4096, 100), (4096, 512))
TOP_K = ((4096, 100, 1), (4096, 100, 5), (4096, 100, 50), (64, 32000, 1), (64, 32000, 5), (64, 32000, 50))
PARAMETERS = 1_000_000  # of the AdamW case

LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.01, 1.0


def attention_name(shape: tuple[int, int, int, int], backward: bool) -> str:
    b, h, length, d = shape
    return f"attention {'forward+backward' if backward else 'forward'} B{b} H{h} L{length} D{d}"


def linear_shapes(size: Size) -> list[tuple[int, int, int]]:
    """Rows, inputs and outputs of every linear layer of one forward pass; the head sees all positions."""
    rows, d = size.batch * size.length, size.d_model
    block = [(rows, d, 3 * d), (rows, d, d), (rows, d, 4 * d), (rows, 4 * d, d)]
    return block * size.layers + [(rows, d, VOCABULARY)]
