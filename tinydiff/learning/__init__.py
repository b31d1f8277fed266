"""From a corpus, a process and a network to a trained run.

- options.py: how to train.
- run.py: a run in memory and in its folder; `load`.
- training.py: the loop, and the held-out figure.
- optim.py: AdamW, clipping, moving average, learning rate.
- muon.py: orthogonalised momentum for the matrices, AdamW for the rest.
- checkpoint.py: a run's files; config.py: what its config may say; files.py: files that are whole or not there.
- finetuning.py: a run on text learns to answer. from_autoregressive.py: an autoregressive one to denoise.
- distillation.py: a teacher's targets in place of the data's.
- lock.py: one training in a folder at a time. interrupts.py: Ctrl-C and its like wait for the end of a step.
"""

from .files import CheckpointError
from .options import Options
from .run import Run, corpus_of, load
from .training import EVALUATION_BATCH, TrainFrame, evaluate, train

__all__ = [
    "EVALUATION_BATCH",
    "CheckpointError",
    "Options",
    "Run",
    "TrainFrame",
    "corpus_of",
    "evaluate",
    "load",
    "train",
]
