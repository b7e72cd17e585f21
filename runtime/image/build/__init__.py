"""The Dockerfile builder."""
