"""What a server is to serve, and how: quire's configuration file, and the folders that other servers read."""
