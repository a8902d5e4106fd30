"""A name, handle, file or model becomes a `Backbone`: weights, preprocessing and the graph of Keras."""
