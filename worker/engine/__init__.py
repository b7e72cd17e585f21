"""The standalone container engine of one machine."""
