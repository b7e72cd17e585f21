"""Images of one machine: references, the content store, layers, archives and the builder."""
