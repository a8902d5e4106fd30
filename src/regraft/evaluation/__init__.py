"""Evaluation: scores, comparisons of models, slices, problems of the data, shortcuts and label errors."""
