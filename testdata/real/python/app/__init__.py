"""A page about casks, rendered from Markdown."""
