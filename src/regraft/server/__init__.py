"""The HTTP server: runs answer requests with images, and a client asks one."""
