"""The head of a network, freezing, the cut into a frozen and a trainable part, surgery and taps."""
