"""Scores as formulas, each with its 95 % interval: classification, labels, numbers and rankings."""
