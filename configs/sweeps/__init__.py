"""Lists of overrides: `python -m hsd_jax.train --config ... --sweep configs/sweeps/FILE.py`."""
