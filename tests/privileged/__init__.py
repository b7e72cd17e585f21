"""Tests of one subsystem on the real kernel; they need root."""
