"""Solvers: heads in closed form, by Newton's method or by scikit-learn, chosen by cross-validation."""
