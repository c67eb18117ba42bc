"""Images and where they come from: files, crops, colour, compositing, texture."""
