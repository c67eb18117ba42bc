"""`hsd bench`: how fast the nets, a swap, a training step and a batch are on this machine."""
