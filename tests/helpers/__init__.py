"""What tests build: networks, images, broken files, processes to kill."""
