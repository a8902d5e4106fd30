"""One image: headers, decoding in guarded processes, colour, resizing and rejections."""
