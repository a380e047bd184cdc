"""Titles: text set in a box, as a picture."""
