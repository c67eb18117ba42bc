"""The page: swaps in a browser, on this machine (`hsd web`, the extra `web`)."""
