"""From trained weights to a version folder that knows what it is worth."""
