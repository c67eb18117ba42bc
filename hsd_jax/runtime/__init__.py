"""The process that all of it runs in: compiled programs, caches, files, the console."""
