"""The four coding problems: a loss, a decoder, a clock and a margin, each written from nothing."""

from ..question import Series
from . import clock, decoder, margin, recipe

PROBLEMS: tuple[Series, ...] = (recipe.PROBLEM, decoder.PROBLEM, clock.PROBLEM, margin.PROBLEM)

__all__ = ["PROBLEMS"]
