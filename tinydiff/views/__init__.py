"""Showing training and sampling to people: consumers of frames."""
