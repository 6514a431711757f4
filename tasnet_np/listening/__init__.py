"""A model at work: on recordings of any length, in a pipe, and on a microphone."""
