"""How good, how fast: what is measured of trained models and of what they write.

- vectors.py: energy distance and other measures of points and pictures.
- answers.py: what a model answers to prompts.
- texts.py: validity, likelihood, entropy and variety of texts.
- translations.py: the same given a source; repeats, BLEU and chrF.
- dial.py: quality against steps, and the knee; dial_report.py: its table and figure.
- order.py: which order a model writes in, and what it gains from the right.
- guards.py: forbidden texts, and who sees them when.
- clock.py: left to right against diffusion, measured and predicted from counted work.
"""

from . import answers, clock, dial, guards, order, texts, translations, vectors

__all__ = ["answers", "clock", "dial", "guards", "order", "texts", "translations", "vectors"]
