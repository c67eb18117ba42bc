"""Finds the people in a photo and the class of each pixel."""
