"""The lab itself, with stand-ins for the daemons."""
