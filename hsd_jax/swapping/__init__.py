"""From two parsed photos to one: align, mix, inpaint, fuse, finish."""
