"""A trained model on disk: loading it, predicting, evaluating, and its OpenVINO graph."""
