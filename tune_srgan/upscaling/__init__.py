"""Super-resolving: the generator handed out, images by windows, and their files with all that these say."""
