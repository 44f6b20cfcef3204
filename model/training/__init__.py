"""From a data set and a recipe to trained weights."""
