"""Whether a committed batch is right, by which proof it falls, or what must be demanded to know."""
