"""Containers and images on one machine, in OCI's words. Knows no cluster."""
