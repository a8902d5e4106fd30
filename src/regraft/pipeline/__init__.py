"""The use cases: train, check, embed, recommend, inspect, demo, and the run folder."""
