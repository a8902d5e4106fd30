"""Export of a trained model to the formats of other runtimes, and the proof that it still answers alike."""
