"""One `get_config(arg)` a file: `python -m hsd_jax.train --config configs/FILE.py:ARG`."""
