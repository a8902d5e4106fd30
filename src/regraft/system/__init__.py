"""The process around regraft: console, signals, imports, Keras' backend, files and the cache folder."""
