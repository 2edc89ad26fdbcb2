"""The server's own admin API, and the second port on which admin routes can be."""
