"""Training: solved and trained heads, planning, fine-tuning, tuning, and the journal of a run."""
