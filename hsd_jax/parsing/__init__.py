"""From a photo to its people: where they are, and what each pixel shows."""
