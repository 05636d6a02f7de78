"""Who is tried, in which order, what trials share, who is ended, who is confirmed and who wins."""
