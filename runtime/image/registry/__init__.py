"""Images over the network: the OCI distribution protocol and Docker's dialect of it."""
