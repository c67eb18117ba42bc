"""Data sets as TFDS builders that run without TensorFlow: `python -m data.build NAME ...`."""
