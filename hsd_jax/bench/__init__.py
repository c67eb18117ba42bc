"""`hsd bench`: how fast the networks, a swap, a training step and a batch are on this machine."""
