"""What a run found, for readers: on the terminal, as a page, and as the README's table."""
