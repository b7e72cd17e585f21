"""The network of one machine: overlays, VIPs, the routing mesh, bridges and DNS."""
