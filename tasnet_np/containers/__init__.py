"""Where the samples of an audio file begin and end, whatever its header says, and what libsndfile is given of it."""
