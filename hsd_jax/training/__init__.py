"""Training: one pure step a task, one loop, checkpoints that resume to the bit."""
