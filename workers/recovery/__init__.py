"""Work that was lost or that no message told of."""
