"""`hsd bench`: times the networks, a swap, a training step and a batch on this machine."""
