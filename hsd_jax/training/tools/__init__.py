"""Commands beside a training run, each a file."""
