"""Run the frozen part of a network over images, and store the results."""
