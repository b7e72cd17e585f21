"""The client against a daemon that speaks HTTP on a real socket."""
