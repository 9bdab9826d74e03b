"""Sound that goes on: a stream of samples, and what it says so far."""
