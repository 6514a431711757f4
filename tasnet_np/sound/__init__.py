"""Sound as numbers: files, sample rates, levels, measures, and ways to vary a recording."""
