"""Base images: examine one before use, and open it for builds."""
