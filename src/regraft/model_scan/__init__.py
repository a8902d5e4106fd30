"""What a model file holds, checked before Keras reads it; trust in SavedModels."""
