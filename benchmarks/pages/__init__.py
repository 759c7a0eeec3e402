"""Weight, time and faults of the pages, and their screens."""
