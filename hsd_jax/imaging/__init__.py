"""Image files, crops, colour spaces, matting and texture completion."""
