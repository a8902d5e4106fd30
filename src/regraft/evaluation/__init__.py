"""Evaluation: scores against baselines, problems of the data, shortcuts and label errors."""
