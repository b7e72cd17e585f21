"""The certificate authority: root, tokens, certificates, and who is calling."""
