"""Base images: the catalogue, download, signature, unpacking, and the cache with all its files."""
